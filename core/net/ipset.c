#include "core/net/ipset.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/base/text.h"

enum { KEY_BYTES = 17, FAMILY_V4 = 4, FAMILY_V6 = 6, MAPPED_BITS = 96 };

struct key { /* ordered by memcmp: the family, then the address, then zeros */
    uint8_t bytes[KEY_BYTES];
};
struct range {
    struct key first, last;
};
struct ipset {
    struct range *ranges; /* once sorted: none overlaps another */
    size_t count, cap;
    bool is_sorted;
};

struct ipset *
ipset_new(void)
{
    return calloc(1, sizeof(struct ipset));
}

void
ipset_free(struct ipset *set)
{
    if (set == NULL) return;
    free(set->ranges);
    free(set);
}

/* *bits: how many the address has, with a mapped one's counted as it was written. */
static bool
key_read(struct slice text, struct key *key, unsigned *bits)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    char copy[INET6_ADDRSTRLEN];
    uint8_t v6[16];
    *key = (struct key){{FAMILY_V4}};
    if (!text_copy(copy, sizeof(copy), text)) return false;
    *bits = 32;
    if (inet_pton(AF_INET, copy, key->bytes + 1) == 1) return true;
    *bits = 128;
    if (inet_pton(AF_INET6, copy, v6) != 1) return false;
    if (memcmp(v6, mapped, sizeof(mapped)) == 0) {
        memcpy(key->bytes + 1, v6 + sizeof(mapped), 4);
        return true;
    }
    key->bytes[0] = FAMILY_V6;
    memcpy(key->bytes + 1, v6, sizeof(v6));
    return true;
}

static bool
range_read(struct slice text, struct range *range)
{
    const char *slash = text.len == 0 ? NULL : memchr(text.at, '/', text.len);
    struct slice address = {text.at, slash == NULL ? text.len : (size_t)(slash - text.at)};
    unsigned most;
    uint64_t kept;
    if (!key_read(address, &range->first, &most)) return false;
    kept = most;
    if (slash != NULL) {
        struct slice number = {slash + 1, text.len - address.len - 1};
        if (!text_parse_u64(number, most, &kept)) return false;
    }
    bool is_v4 = range->first.bytes[0] == FAMILY_V4;
    if (is_v4 && most == 128) { /* mapped: a prefix that ends before the mapping does is none of IPv4 */
        if (kept < MAPPED_BITS) return false;
        kept -= MAPPED_BITS;
    }
    range->last = range->first;
    for (size_t i = 0; i < (is_v4 ? 4u : 16u); i++) {
        unsigned own = kept > i * 8 ? (unsigned)(kept - i * 8) : 0;
        uint8_t rest = own >= 8 ? 0 : (uint8_t)(0xff >> own);
        range->first.bytes[i + 1] &= (uint8_t)~rest;
        range->last.bytes[i + 1] |= rest;
    }
    return true;
}

enum ipset_result
ipset_add(struct ipset *set, struct slice text)
{
    struct range range;
    if (!range_read(text, &range)) return IPSET_BAD;
    if (set->count == set->cap) {
        size_t cap = set->cap == 0 ? 16 : set->cap * 2;
        struct range *grown = reallocarray(set->ranges, cap, sizeof(*grown));
        if (grown == NULL) return IPSET_MEMORY;
        set->ranges = grown;
        set->cap = cap;
    }
    set->ranges[set->count++] = range;
    set->is_sorted = false;
    return IPSET_OK;
}

static int
by_first(const void *left, const void *right)
{
    const struct range *a = left, *b = right;
    return memcmp(&a->first, &b->first, sizeof(a->first));
}

/* Prefixes lie in one another or apart, so what begins inside the one before also ends there. */
static void
sort(struct ipset *set)
{
    size_t kept = 0;
    set->is_sorted = true;
    if (set->count == 0) return;
    qsort(set->ranges, set->count, sizeof(*set->ranges), by_first);
    for (size_t i = 1; i < set->count; i++) {
        struct range *last = &set->ranges[kept], *next = &set->ranges[i];
        if (memcmp(&next->first, &last->last, sizeof(next->first)) > 0)
            set->ranges[++kept] = *next;
        else if (memcmp(&next->last, &last->last, sizeof(next->last)) > 0)
            last->last = next->last; /* of two that begin alike the longer one came second */
    }
    set->count = kept + 1;
}

bool
ipset_has(struct ipset *set, struct slice ip)
{
    struct key key;
    unsigned bits;
    if (!key_read(ip, &key, &bits)) return false;
    if (!set->is_sorted) sort(set);
    size_t low = 0, high = set->count; /* the first range that begins behind the key */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(&set->ranges[middle].first, &key, sizeof(key)) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && memcmp(&key, &set->ranges[low - 1].last, sizeof(key)) <= 0;
}
