/* core/main/generation.c: from a bundle's descriptor to a config, the same in every process. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/strbuf.h"
#include "core/main/process.h"

void
config_apply_bound(struct config *config, const struct ipc_bound *bound)
{
    if (bound->registry_http != 0) config->registry.listen_http.port = bound->registry_http;
    if (bound->registry_grpc != 0) config->registry.listen_grpc.port = bound->registry_grpc;
    if (bound->admin == 0 || !config->has_admin || config->admin.is_unix) return;
    uint16_t written = config->admin.port;
    config->admin.port = bound->admin;
    if (!config->is_flat) return;
    for (size_t i = 0; i < config->service_count;
         i++) { /* the flat file's GET /metrics goes to the admin address */
        struct config_service *service = &config->services[i];
        if (strcmp(service->name, "fluxgate-admin") == 0 && service->endpoint_count == 1 &&
            service->endpoints[0].address.port == written)
            service->endpoints[0].address.port = bound->admin;
    }
}

static void
diags_text(const struct diags *diags, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < diags->count && used + 1 < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", used == 0 ? "" : "\n", diags->rows[i].text);
        if (n < 0) break;
        used += (size_t)n < size - used ? (size_t)n : size - used - 1;
    }
    if (diags->failed && used == 0) snprintf(out, size, "out of memory");
}

struct config *
generation_load(struct ipc_message *message, struct bundle **bundle)
{
    struct diags diags = {0};
    struct config *config = NULL;
    char file[IPC_TEXT_MAX];
    memcpy(file, message->text, sizeof file);
    *bundle = NULL;
    if (message->fd_count == 0) {
        snprintf(message->text, sizeof message->text, "a generation came without its bundle");
        return NULL;
    }
    int fd = message->fds[0];
    message->fds[0] = -1;
    *bundle = bundle_from_fd(fd);
    if (*bundle == NULL) {
        snprintf(message->text, sizeof message->text, "the bundle cannot be read: %s", strerror(errno));
        return NULL;
    }
    config = config_load(*bundle, file, &diags);
    if (config == NULL || !diags_ok(&diags)) {
        diags_text(&diags, message->text, sizeof message->text);
        config_free(config);
        bundle_free(*bundle);
        *bundle = NULL;
        config = NULL;
    } else {
        config_apply_bound(config, &message->bound);
        log_init(NULL, config->log.level, config->log.format);
    }
    diags_fini(&diags);
    return config;
}

void
generation_report(int channel, uint32_t number, bool ok, const char *text)
{
    static struct ipc_message message; /* 9 KiB: not for a stack frame */
    message = (struct ipc_message){.type = IPC_USING, .number = number, .ok = ok};
    message.text_len = (uint32_t)strnlen(text, IPC_TEXT_MAX - 1);
    memcpy(message.text, text, message.text_len);
    if (!ipc_send(channel, &message)) log_warn("the supervisor does not take messages");
}
