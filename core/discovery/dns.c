#include "core/discovery/discovery_internal.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"

/* libc gives no TTL; half a minute is what nginx's and HAProxy's users run with. */
enum { DNS_FRESH_US = 30000000, DNS_RETRY_FIRST_US = 1000000, DNS_BUCKETS = 1024 };

struct dns_name {
    struct dns_name *next;
    char *host;
    struct sockaddr_storage addresses[DNS_ADDRESSES];
    unsigned count;
    uint64_t due_us, retry_us;
    bool is_pending, is_asked; /* a job is out; somebody asked since the last sweep */
};

struct dns {
    struct dns_name *buckets[DNS_BUCKETS];
    size_t names;
    struct work *work;
    struct event *tick;
    void (*on_change)(void *context);
    void *context;
    struct log_every failures;
    struct dns_job *jobs; /* out there; their dns is this one */
};

struct dns_job {
    struct work_job work; /* first: jobs are cast */
    struct dns_job *next, **link;
    struct dns *dns;
    int error;
    unsigned count;
    struct sockaddr_storage addresses[DNS_ADDRESSES];
    char host[];
};

static socklen_t
address_len(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* Ports aside. */
static bool
address_is_same(const struct sockaddr_storage *a, const struct sockaddr *b)
{
    if (a->ss_family != b->sa_family) return false;
    if (a->ss_family == AF_INET) {
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    }
    return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr,
               16) == 0;
}

static bool
numeric_parse(const char *host, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (slice_equal_nocase(slice_of(host), SLICE_LIT("localhost"))) host = "127.0.0.1"; /* RFC 6761 §6.3 */
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) return false;
    v6->sin6_family = AF_INET6;
    return true;
}

static void
job_run(struct work_job *work)
{
    struct dns_job *job = (struct dns_job *)work;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *all = NULL;
    job->error = getaddrinfo(job->host, NULL, &hints, &all);
    if (job->error != 0) return;
    for (const struct addrinfo *one = all; one != NULL && job->count < DNS_ADDRESSES; one = one->ai_next) {
        if (one->ai_family != AF_INET && one->ai_family != AF_INET6) continue;
        memcpy(&job->addresses[job->count++], one->ai_addr, one->ai_addrlen);
    }
    freeaddrinfo(all);
}

static struct dns_name *
name_find(struct dns *dns, struct slice host)
{
    struct dns_name *name = dns->buckets[text_hash(host) % DNS_BUCKETS];
    while (name != NULL && !slice_equal(slice_of(name->host), host))
        name = name->next;
    return name;
}

static void
name_failed(struct dns *dns, struct dns_name *name, int error)
{
    uint64_t suppressed;
    name->retry_us = name->retry_us == 0 ? DNS_RETRY_FIRST_US : name->retry_us * 2;
    if (name->retry_us > DNS_FRESH_US) name->retry_us = DNS_FRESH_US;
    name->due_us = clock_now_us() + name->retry_us;
    if (!log_every_due(&dns->failures, LOG_INTERVAL_US, &suppressed)) return;
    log_warnx("name lookup failed", F_STR("host", name->host), F_STR("error", gai_strerror(error)),
        F_STR("so", name->count > 0 ? "the last known addresses stay" : "its endpoints wait"),
        F_UINT("suppressed", suppressed));
}

static void
job_done(struct work_job *work)
{
    struct dns_job *job = (struct dns_job *)work;
    struct dns *dns = job->dns;
    struct dns_name *name = dns == NULL ? NULL : name_find(dns, slice_of(job->host));
    if (dns != NULL) {
        *job->link = job->next;
        if (job->next != NULL) job->next->link = job->link;
    }
    if (name != NULL) {
        name->is_pending = false;
        if (job->error != 0 || job->count == 0) {
            name_failed(dns, name, job->error != 0 ? job->error : EAI_NONAME);
        } else {
            size_t bytes = job->count * sizeof job->addresses[0];
            bool moved = name->count != job->count || memcmp(name->addresses, job->addresses, bytes) != 0;
            memcpy(name->addresses, job->addresses, bytes);
            name->count = job->count;
            name->retry_us = 0;
            name->due_us = clock_now_us() + DNS_FRESH_US;
            if (moved) dns->on_change(dns->context);
        }
    }
    free(job);
}

static void
job_drop(struct work_job *work)
{
    free(work);
}

static void
name_lookup(struct dns *dns, struct dns_name *name)
{
    size_t len = strlen(name->host);
    struct dns_job *job = calloc(1, sizeof *job + len + 1);
    name->due_us = clock_now_us() + DNS_RETRY_FIRST_US;
    if (job == NULL) return;
    memcpy(job->host, name->host, len);
    job->work = (struct work_job){NULL, job_run, job_done, job_drop};
    job->dns = dns;
    if (!work_submit(dns->work, &job->work)) {
        free(job);
        return;
    }
    job->next = dns->jobs;
    job->link = &dns->jobs;
    if (job->next != NULL) job->next->link = &job->next;
    dns->jobs = job;
    name->is_pending = true;
}

static void
on_tick(evutil_socket_t fd, short what, void *context)
{
    struct dns *dns = context;
    uint64_t now = clock_now_us();
    (void)fd;
    (void)what;
    if (dns->names == 0) return;
    for (size_t i = 0; i < DNS_BUCKETS; i++) {
        for (struct dns_name *name = dns->buckets[i]; name != NULL; name = name->next) {
            if (!name->is_pending && name->due_us <= now) name_lookup(dns, name);
        }
    }
}

struct dns *
dns_new(struct event_base *base, struct work *work, void (*on_change)(void *context), void *context)
{
    struct dns *dns = calloc(1, sizeof *dns);
    if (dns == NULL) return NULL;
    *dns = (struct dns){.work = work, .on_change = on_change, .context = context};
    dns->tick = event_new(base, -1, EV_PERSIST, on_tick, dns);
    if (dns->tick == NULL || event_add(dns->tick, &(struct timeval){1, 0}) == -1) {
        dns_free(dns);
        return NULL;
    }
    return dns;
}

bool
dns_is_literal(struct slice host)
{
    char text[SLOT_HOST_BYTES];
    struct sockaddr_storage address;
    return text_copy(text, sizeof text, host) && numeric_parse(text, &address);
}

bool
dns_find(struct dns *dns, struct slice host, const struct sockaddr *current, struct sockaddr_storage *out,
    socklen_t *len)
{
    char text[SLOT_HOST_BYTES];
    if (host.len == 0 || !text_copy(text, sizeof text, host)) return false;
    if (numeric_parse(text, out)) {
        *len = address_len(out);
        return true;
    }
    struct dns_name *name = name_find(dns, host);
    if (name == NULL) {
        name = calloc(1, sizeof *name);
        if (name == NULL || (name->host = slice_dup(host)) == NULL) {
            free(name);
            return false;
        }
        struct dns_name **bucket = &dns->buckets[text_hash(host) % DNS_BUCKETS];
        name->next = *bucket;
        *bucket = name;
        dns->names++;
        name_lookup(dns, name);
    }
    name->is_asked = true;
    if (name->count == 0) return false;
    *out = name->addresses[0];
    for (unsigned i = 0; i < name->count && current != NULL; i++) {
        if (address_is_same(&name->addresses[i], current)) *out = name->addresses[i];
    }
    *len = address_len(out);
    return true;
}

void
dns_sweep(struct dns *dns)
{
    for (size_t i = 0; i < DNS_BUCKETS; i++) {
        for (struct dns_name **link = &dns->buckets[i], *name = *link; name != NULL; name = *link) {
            if (name->is_asked) {
                name->is_asked = false;
                link = &name->next;
                continue;
            }
            *link = name->next;
            dns->names--;
            free(name->host);
            free(name);
        }
    }
}

void
dns_free(struct dns *dns)
{
    if (dns == NULL) return;
    if (dns->tick != NULL) event_free(dns->tick);
    for (struct dns_job *job = dns->jobs; job != NULL; job = job->next)
        job->dns = NULL;
    for (size_t i = 0; i < DNS_BUCKETS; i++) {
        for (struct dns_name *name = dns->buckets[i], *next; name != NULL; name = next) {
            next = name->next;
            free(name->host);
            free(name);
        }
    }
    free(dns);
}
