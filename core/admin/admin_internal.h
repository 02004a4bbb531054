/* core/admin/admin_internal.h: what the files of core/admin share. */
#ifndef FLUXGATE_ADMIN_ADMIN_INTERNAL_H
#define FLUXGATE_ADMIN_ADMIN_INTERNAL_H
#include <sys/stat.h>

#include "core/admin/admin.h"
#include "core/base/strbuf.h"
#include "core/serve/serve.h"

enum { SCRIPT_ROWS = 1024 };

/* A POST /api/v1/reload that waits for its verdict. */
struct admin_held {
    struct admin *admin;
    struct serve_call *call;
    struct admin_held *next;
};

/* A server whose listening socket was replaced: it lives until its last connection is gone. */
struct admin_server {
    struct serve *serve;
    struct admin_server *next;
    dev_t device; /* of the listening socket: a duplicate of the same one replaces nothing */
    ino_t inode;
    bool finished;
};

struct admin {
    struct event_base *base;
    struct admin_env env;
    struct admin_server *server;  /* the one that listens; NULL where none does */
    struct admin_server *retired; /* newest first */
    struct admin_held *held;
    bool is_leaving; /* `server` drains, for who called admin_leave */
    /* of the generation in use; config is NULL before the first */
    const struct config *config;
    struct script *script;
    uint32_t generation;
    char hash[32];
};

/* An endpoint as both the API and the page show it. */
struct admin_endpoint {
    uint32_t slot;
    const char *service; /* lives in the shared segment */
    struct slot cold;
    struct slot_text text;
    char address[160];
    uint64_t since_us; /* how long it has been in its state */
    uint32_t latency_us;
};

/* Fills *endpoint from a slot; false where the slot holds none, or one that is gone. */
MUST_CHECK
bool admin_endpoint_read(
    struct admin *admin, uint32_t slot, uint64_t now_us, struct admin_endpoint *endpoint);
bool admin_is_ready(const struct admin *admin);

void admin_write_status(struct admin *admin, struct strbuf *out);    /* JSON */
void admin_write_endpoints(struct admin *admin, struct strbuf *out); /* JSON */
void admin_write_config(
    struct admin *admin, struct strbuf *out); /* YAML, secrets hidden; there must be a config */
void admin_write_page(struct admin *admin, struct strbuf *out); /* HTML */

#endif
