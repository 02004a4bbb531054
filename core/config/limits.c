#include <stddef.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

/* QUEUE_TICKETS_MAX of core/shm/queue.h and DICTS_MAX of dict.h, which this room can't see. */
enum { QUEUE_MAX = 4096, DICTS_MAX = 256, ACTIVE_MAX = 10000000, RETRIES_MAX = 10 };

/* ---- limits
 * ---------------------------------------------------------------------------------------------------- */

#define ROW(name, type, where, field, min, max)                                                              \
    {                                                                                                        \
        name, type, offsetof(where, field), min, max, NULL, NULL                                             \
    }
#define BODY_ROWS(where, bytes, rate)                                                                        \
    ROW("body_bytes", KEY_SIZE, where, bytes, 0, UINT64_MAX / 2),                                            \
        ROW("body_rate", KEY_SIZE, where, rate, 0, 1u << 30)
#define QUEUE_ROWS(where, queue)                                                                             \
    ROW("queue", KEY_NUMBER, where, queue.queue, 0, QUEUE_MAX),                                              \
        ROW("queue_timeout", KEY_DURATION, where, queue.queue_timeout, 1000, 0)
#define ACTIVE_ROWS(where, queue)                                                                            \
    ROW("active_per_endpoint", KEY_NUMBER, where, queue.active_per_endpoint, 0, ACTIVE_MAX),                 \
        ROW("active", KEY_NUMBER, where, queue.active, 0, ACTIVE_MAX)

static const struct key limits_keys[] = {
    ROW("header_bytes", KEY_SIZE32, struct config_limits, header_bytes, 1024, 1 << 20),
    ROW("headers", KEY_NUMBER, struct config_limits, headers, 1, 1000),
    ROW("uri_bytes", KEY_SIZE32, struct config_limits, uri_bytes, 64, 1 << 20),
    BODY_ROWS(struct config_limits, body_bytes, body_rate),
    ROW("connections", KEY_NUMBER, struct config_limits, connections, 1, 10000000),
    ROW("connections_per_client", KEY_NUMBER, struct config_limits, connections_per_client, 0, 10000000),
    ROW("keepalive_requests", KEY_NUMBER, struct config_limits, keepalive_requests, 0, 1000000000),
    ROW("max_connection_age", KEY_DURATION, struct config_limits, max_connection_age, 0, 0),
    ROW("max_endpoints", KEY_NUMBER, struct config_limits, max_endpoints, 1, 1000000),
    ROW("shared_dict_bytes", KEY_SIZE, struct config_limits, shared_dict_bytes, 1 << 20, 1 << 30),
    ROW("shared_dicts", KEY_NUMBER, struct config_limits, shared_dicts, 1, DICTS_MAX),
    ROW("pool_per_endpoint", KEY_NUMBER, struct config_limits, pool_per_endpoint, 0, 65535),
    ACTIVE_ROWS(struct config_limits, queue),
    QUEUE_ROWS(struct config_limits, queue),
};
static const struct key service_limits_keys[] = {
    ACTIVE_ROWS(struct config_service, queue),
    QUEUE_ROWS(struct config_service, queue),
    BODY_ROWS(struct config_service, body.bytes, body.rate),
};
/* Requests of several routes count in one service, so only the service can say how many there may be. */
static const struct key route_limits_keys[] = {
    QUEUE_ROWS(struct config_route, queue),
    BODY_ROWS(struct config_route, body.bytes, body.rate),
};
BLOCK(limits, "limits", limits_keys);
BLOCK(service_limits, "a service's limits", service_limits_keys);
BLOCK(route_limits, "a route's limits", route_limits_keys);

/* ---- retry
 * ----------------------------------------------------------------------------------------------------- */

static void
take_budget(struct load *load, const struct node *node, void *target)
{
    struct config_retry *retry = target;
    const char *text = node->kind == NODE_SCALAR ? node->text : "";
    size_t len = strlen(text);
    uint64_t percent;
    if (len > 1 && text[len - 1] == '%' && text_parse_u64((struct slice){text, len - 1}, 100, &percent)) {
        retry->budget_percent = (uint32_t)percent;
    } else {
        value_refuse(load, node, "a share from 0% to 100%, such as 20%");
    }
}

const char *const retry_on_words[] = {"never_sent", "idempotent_reset", NULL}; /* as the bits of on */

static void
take_on(struct load *load, const struct node *node, void *target)
{
    struct config_retry *retry = target;
    uint32_t on = 0;
    int word;
    if (node->kind == NODE_MAP) {
        value_refuse(load, node, "a list of never_sent and idempotent_reset");
        return;
    }
    const struct node *item = node->kind == NODE_LIST ? node->first : node_is_null(node) ? NULL : node;
    for (; item != NULL; item = node->kind == NODE_LIST ? item->next : NULL) {
        if (value_word(load, item, retry_on_words, &word)) on |= 1u << word;
    }
    retry->on = on;
}

static void
take_retry_status(struct load *load, const struct node *node, void *target)
{
    static const char expected[] = "a status from 500 to 599";
    struct config_retry *retry = target;
    const char **texts;
    size_t count;
    uint64_t status;
    if (!value_texts(load, node, expected, &texts, &count)) return;
    retry->status[0] = retry->status[1] = 0;
    for (size_t i = 0; i < count; i++) {
        if (text_parse_u64(slice_of(texts[i]), 599, &status) && status >= 500) {
            retry->status[(status - 500) / 64] |= (uint64_t)1 << (status - 500) % 64;
        } else {
            refuse(load, node->place, NULL, "%s: expected %s, found %s", node->key, expected,
                shown(load, texts[i]));
        }
    }
}

static const struct key retry_keys[] = {
    ROW("attempts", KEY_NUMBER, struct config_retry, attempts, 0, RETRIES_MAX),
    {"budget", KEY_OTHER, 0, 0, 0, NULL, take_budget},
    {"on", KEY_OTHER, 0, 0, 0, NULL, take_on},
    ROW("per_try", KEY_DURATION, struct config_retry, per_try, 0, 0),
    {"status", KEY_OTHER, 0, 0, 0, NULL, take_retry_status},
};
BLOCK(retry, "retry", retry_keys);
