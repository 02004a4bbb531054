#include <arpa/inet.h>
#include <errno.h>
#include <event2/dns.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/proxy/fetch_internal.h"

enum {
    LOOKUPS_MAX = 256,
    TTL_MAX_US = 30000000,
    TTL_MIN_US = 1000000, /* also of an answer that there is none */
    GRACE_US = 50000,     /* RFC 8305 §3: for the other family's answer once one family has one */
    HOSTS_BYTES = 1 << 20,
    NAME_BYTES = 254,
};

enum { ASKED_V4 = 1, ASKED_V6 = 2 };

/* One name: being asked for, or known until expires_us. */
struct lookup {
    struct link link; /* resolver->lookups, the last used first */
    struct resolver *resolver;
    unsigned asked; /* answers that are still to come */
    bool is_done;
    uint64_t expires_us;
    uint64_t ttl_us;
    int error; /* DNS_ERR_…, of the last answer without an address */
    struct in_addr v4[FETCH_ADDRESSES];
    struct in6_addr v6[FETCH_ADDRESSES];
    unsigned v4_count, v6_count;
    struct link waiting; /* fetches */
    struct event grace;
    char name[NAME_BYTES];
};

struct resolver {
    struct proxy *proxy;
    struct evdns_base *dns;
    struct stat conf; /* as it was when it was read */
    const char *conf_path, *hosts_path;
    struct link lookups;
    unsigned count;
};

/* addresses */

static void
add_address(struct fetch *fetch, int family, const void *bytes)
{
    struct fetch_address *address = &fetch->addresses[fetch->address_count];
    if (fetch->address_count == FETCH_ADDRESSES) return;
    *address = (struct fetch_address){0};
    if (family == AF_INET) {
        address->len = sizeof address->v4;
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(fetch->url.port);
        memcpy(&address->v4.sin_addr, bytes, sizeof address->v4.sin_addr);
    } else {
        address->len = sizeof address->v6;
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(fetch->url.port);
        memcpy(&address->v6.sin6_addr, bytes, sizeof address->v6.sin6_addr);
    }
    fetch->address_count++;
}

static bool
add_literal(struct fetch *fetch, const char *text)
{
    unsigned char bytes[16];
    int family = strchr(text, ':') == NULL ? AF_INET : AF_INET6;
    if (inet_pton(family, text, bytes) != 1) return false;
    add_address(fetch, family, bytes);
    return true;
}

/* RFC 6761 §6.3: the name's addresses are known without asking anybody. */
static bool
is_localhost(struct slice name)
{
    struct slice local = SLICE_LIT("localhost");
    if (name.len < local.len) return false;
    struct slice tail = {name.at + name.len - local.len, local.len};
    return slice_equal(tail, local) && (name.len == local.len || tail.at[-1] == '.');
}

/* IPv4 first: servers on a machine of both families mostly listen there. */
static bool
add_known(struct fetch *fetch, const struct lookup *lookup)
{
    for (unsigned i = 0; i < lookup->v4_count; i++)
        add_address(fetch, AF_INET, &lookup->v4[i]);
    if (lookup->v6_count > 0 && fetch->address_count == FETCH_ADDRESSES) fetch->address_count--;
    for (unsigned i = 0; i < lookup->v6_count; i++)
        add_address(fetch, AF_INET6, &lookup->v6[i]);
    return fetch->address_count > 0;
}

/* hosts(5) */

static bool
line_names(char *line, const char *name, char **address)
{
    char *save = NULL;
    line[strcspn(line, "#")] = '\0';
    *address = strtok_r(line, " \t\r", &save);
    if (*address == NULL) return false;
    for (char *alias; (alias = strtok_r(NULL, " \t\r", &save)) != NULL;) {
        if (slice_equal_nocase(slice_of(alias), slice_of(name))) return true;
    }
    return false;
}

/* The file is read again for each name that is not known: it is small, and may have changed. */
static bool
add_from_hosts(struct fetch *fetch, const char *path, const char *name)
{
    struct stat file;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd == -1) return false;
    size_t size = fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_size < HOSTS_BYTES
                      ? (size_t)file.st_size
                      : 0;
    char *text = size == 0 ? NULL : malloc(size + 1);
    ssize_t n = text == NULL ? -1 : read(fd, text, size);
    close(fd);
    if (n > 0) {
        text[n] = '\0';
        for (char *line = text, *end; line != NULL; line = end) {
            char *address;
            end = strchr(line, '\n');
            if (end != NULL) *end++ = '\0';
            if (line_names(line, name, &address)) (void)add_literal(fetch, address);
        }
    }
    free(text);
    return fetch->address_count > 0;
}

/* look-ups */

static void
lookup_free(struct lookup *lookup)
{
    event_del(&lookup->grace);
    link_remove(&lookup->link);
    lookup->resolver->count--;
    free(lookup);
}

static void
lookup_end(struct lookup *lookup)
{
    uint64_t ttl_us = lookup->ttl_us < TTL_MIN_US ? TTL_MIN_US : lookup->ttl_us;
    event_del(&lookup->grace);
    lookup->is_done = true;
    lookup->expires_us = lookup->resolver->proxy->now_us + (ttl_us < TTL_MAX_US ? ttl_us : TTL_MAX_US);
    while (!link_is_empty(&lookup->waiting)) {
        struct fetch *fetch = LINK_OF(lookup->waiting.prev, struct fetch, waiting);
        link_remove(&fetch->waiting);
        fetch->lookup = NULL;
        if (add_known(fetch, lookup))
            fetch_on_addresses(fetch);
        else
            fetch_end(fetch, REASON_NO_ENDPOINTS, "%s has no address: %s", lookup->name,
                evdns_err_to_string(lookup->error));
    }
}

static void
on_grace(evutil_socket_t fd, short what, void *context)
{
    struct lookup *lookup = context;
    struct proxy *proxy = lookup->resolver->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    lookup_end(lookup);
    proxy_leave(proxy);
}

static void
on_answer(struct lookup *lookup, unsigned asked, int error, int ttl, bool has_addresses)
{
    struct proxy *proxy = lookup->resolver->proxy;
    struct timeval grace = {0, GRACE_US};
    uint64_t ttl_us = ttl > 0 ? (uint64_t)ttl * 1000000 : 0;
    proxy_enter(proxy);
    lookup->asked &= ~asked;
    if (has_addresses && (lookup->ttl_us == 0 || ttl_us < lookup->ttl_us)) lookup->ttl_us = ttl_us;
    if (!has_addresses) lookup->error = error == DNS_ERR_NONE ? DNS_ERR_NODATA : error;
    if (lookup->is_done) /* late: the cache is the richer for it */
        ;
    else if (lookup->asked == 0)
        lookup_end(lookup);
    else if (has_addresses && event_add(&lookup->grace, &grace) == -1)
        lookup_end(lookup);
    proxy_leave(proxy);
}

static void
on_v4(int error, char type, int count, int ttl, void *addresses, void *context)
{
    struct lookup *lookup = context;
    (void)type;
    if (error == DNS_ERR_NONE && count > 0) {
        lookup->v4_count = count < FETCH_ADDRESSES ? (unsigned)count : FETCH_ADDRESSES;
        memcpy(lookup->v4, addresses, lookup->v4_count * sizeof lookup->v4[0]);
    }
    on_answer(lookup, ASKED_V4, error, ttl, lookup->v4_count > 0);
}

static void
on_v6(int error, char type, int count, int ttl, void *addresses, void *context)
{
    struct lookup *lookup = context;
    (void)type;
    if (error == DNS_ERR_NONE && count > 0) {
        lookup->v6_count = count < FETCH_ADDRESSES ? (unsigned)count : FETCH_ADDRESSES;
        memcpy(lookup->v6, addresses, lookup->v6_count * sizeof lookup->v6[0]);
    }
    on_answer(lookup, ASKED_V6, error, ttl, lookup->v6_count > 0);
}

/* Else libevent writes to standard error, past our log. */
static void
on_message(int is_warning, const char *text)
{
    (void)is_warning;
    log_debug("dns", F_STR("says", text));
}

/* resolv.conf(5) may change while we run (a laptop moves, a container starts before its network). */
static bool
use_servers(struct resolver *resolver)
{
    struct stat conf = {0};
    bool is_asking = false;
    (void)!stat(resolver->conf_path, &conf);
    for (struct link *at = resolver->lookups.next; at != &resolver->lookups; at = at->next)
        is_asking |= LINK_OF(at, struct lookup, link)->asked != 0;
    bool is_same = conf.st_ino == resolver->conf.st_ino &&
                   conf.st_mtim.tv_sec == resolver->conf.st_mtim.tv_sec &&
                   conf.st_mtim.tv_nsec == resolver->conf.st_mtim.tv_nsec;
    if (resolver->dns != NULL && (is_same || is_asking)) return true;
    if (resolver->dns != NULL) evdns_base_free(resolver->dns, 0);
    evdns_set_log_fn(on_message);
    resolver->conf = conf;
    resolver->dns = evdns_base_new(resolver->proxy->base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (resolver->dns == NULL) return false;
    (void)evdns_base_set_option(resolver->dns, "timeout:", "2");
    (void)evdns_base_resolv_conf_parse(
        resolver->dns, DNS_OPTION_SEARCH | DNS_OPTION_NAMESERVERS | DNS_OPTION_MISC, resolver->conf_path);
    if (evdns_base_count_nameservers(resolver->dns) > 0) return true;
    evdns_base_free(resolver->dns, 0); /* no descriptor was left for one: questions would wait for ever */
    resolver->dns = NULL;
    return false;
}

static struct lookup *
find(struct resolver *resolver, const char *name)
{
    uint64_t now_us = resolver->proxy->now_us;
    for (struct link *at = resolver->lookups.next, *next; at != &resolver->lookups; at = next) {
        struct lookup *lookup = LINK_OF(at, struct lookup, link);
        next = at->next;
        if (strcmp(lookup->name, name) != 0) continue;
        if (!lookup->is_done || lookup->expires_us > now_us || lookup->asked != 0) return lookup;
        lookup_free(lookup);
    }
    return NULL;
}

static bool
make_room(struct resolver *resolver)
{
    if (resolver->count < LOOKUPS_MAX) return true;
    for (struct link *at = resolver->lookups.prev; at != &resolver->lookups; at = at->prev) {
        struct lookup *lookup = LINK_OF(at, struct lookup, link);
        if (lookup->asked != 0 || !lookup->is_done) continue;
        lookup_free(lookup);
        return true;
    }
    return false;
}

static struct lookup *
ask(struct resolver *resolver, const char *name)
{
    if (!make_room(resolver) || !use_servers(resolver)) return NULL;
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL) return NULL;
    lookup->resolver = resolver;
    memcpy(lookup->name, name, strlen(name) + 1);
    link_init(&lookup->link);
    link_init(&lookup->waiting);
    event_assign(&lookup->grace, resolver->proxy->base, -1, 0, on_grace, lookup);
    link_push(&resolver->lookups, &lookup->link);
    resolver->count++;
    if (evdns_base_resolve_ipv4(resolver->dns, name, 0, on_v4, lookup) != NULL) lookup->asked |= ASKED_V4;
    if (evdns_base_resolve_ipv6(resolver->dns, name, 0, on_v6, lookup) != NULL) lookup->asked |= ASKED_V6;
    if (lookup->asked != 0) return lookup;
    lookup_free(lookup);
    return NULL;
}

/* asking */

static struct resolver *
resolver_get(struct fetcher *fetcher)
{
    if (fetcher->resolver != NULL) return fetcher->resolver;
    struct resolver *resolver = calloc(1, sizeof *resolver);
    if (resolver == NULL) return NULL;
    resolver->proxy = fetcher->proxy;
    resolver->conf_path = "/etc/resolv.conf";
    resolver->hosts_path = "/etc/hosts";
    link_init(&resolver->lookups);
    fetcher->resolver = resolver;
    return resolver;
}

static enum resolved
resolve_name(struct fetch *fetch, const char *name)
{
    struct resolver *resolver = resolver_get(fetch->fetcher);
    if (resolver == NULL) return RESOLVE_FAILED;
    if (add_from_hosts(fetch, resolver->hosts_path, name)) return RESOLVED;
    struct lookup *lookup = find(resolver, name);
    if (lookup == NULL) lookup = ask(resolver, name);
    if (lookup == NULL) return RESOLVE_FAILED;
    link_remove(&lookup->link);
    link_push(&resolver->lookups, &lookup->link);
    if (!lookup->is_done) {
        fetch->lookup = lookup;
        link_push(&lookup->waiting, &fetch->waiting);
        return RESOLVE_WAITS;
    }
    if (add_known(fetch, lookup)) return RESOLVED;
    snprintf(fetch->detail, sizeof fetch->detail, "%s has no address: %s", name,
        evdns_err_to_string(lookup->error));
    return RESOLVE_NONE;
}

enum resolved
resolve(struct fetch *fetch)
{
    char name[NAME_BYTES];
    struct slice host = fetch->url.host;
    snprintf(fetch->detail, sizeof fetch->detail, "%.*s cannot be looked up",
        (int)(host.len < 200 ? host.len : 200), host.at);
    if (host.len > 1 && host.at[host.len - 1] == '.') host.len--;
    if (host.len >= sizeof name) return RESOLVE_NONE;
    for (size_t i = 0; i < host.len; i++)
        name[i] = (char)ascii_lower((unsigned char)host.at[i]);
    name[host.len] = '\0';
    if (add_literal(fetch, name)) return RESOLVED;
    if (is_localhost(slice_of(name))) {
        (void)add_literal(fetch, "127.0.0.1");
        (void)add_literal(fetch, "::1");
        return RESOLVED;
    }
    return resolve_name(fetch, name);
}

void
resolve_cancel(struct fetch *fetch)
{
    link_remove(&fetch->waiting);
    fetch->lookup = NULL;
}

bool
resolver_use(struct fetcher *fetcher, const char *resolv_conf, const char *hosts)
{
    struct resolver *resolver = resolver_get(fetcher);
    if (resolver == NULL) return false;
    resolver->conf_path = resolv_conf;
    resolver->hosts_path = hosts;
    return true;
}

/* Outside the loop alone: an answer that it holds for later would come to what is freed here. */
void
resolver_free(struct resolver *resolver)
{
    if (resolver == NULL) return;
    if (resolver->dns != NULL) evdns_base_free(resolver->dns, 0);
    while (!link_is_empty(&resolver->lookups))
        lookup_free(LINK_OF(resolver->lookups.next, struct lookup, link));
    free(resolver);
}
