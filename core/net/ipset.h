/* core/net/ipset.h: a set of addresses, given as addresses and CIDR prefixes of both families. An IPv4
 * address that is mapped into IPv6 (RFC 4291 §2.5.5.2) is that IPv4 address, in the set and in the question;
 * so ::/0 holds no IPv4 address. */
#ifndef FLUXGATE_NET_IPSET_H
#define FLUXGATE_NET_IPSET_H
#include <stdbool.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

struct ipset;

MUST_CHECK
struct ipset *ipset_new(void);
void ipset_free(struct ipset *set); /* NULL is fine */

enum ipset_result { IPSET_OK, IPSET_BAD, IPSET_MEMORY };
/* "192.0.2.0/24", "2001:db8::1"; bits behind the prefix are ignored. BAD: it is none. */
MUST_CHECK
enum ipset_result ipset_add(struct ipset *set, struct slice text);
/* False also for what is no address. Hot but for the first call after an ipset_add, which sorts. */
bool ipset_has(struct ipset *set, struct slice ip);

#endif
