#include "flux/command/options.h"

#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/text.h"

enum kind { TEXT, PORT, WEIGHT, DURATION_US, DURATION_MS, PROTOCOL, PAIR, FLAG };

struct option {
    const char *name, *argument;
    unsigned commands;
    enum kind kind;
    size_t offset;
    const char *help;
};

enum {
    ON_ALL = ON_RUN | ON_REGISTER | ON_DEREGISTER | ON_HEARTBEAT | ON_LIST,
    ON_ONE = ON_ALL & ~ON_LIST,
    ON_JOIN = ON_RUN | ON_REGISTER
};

#define AT(field) offsetof(struct options, field)
static const struct option table[] = {
    {"--service", "NAME", ON_ALL, TEXT, AT(instance.service_name), "service name [$SERVICE_NAME]"},
    {"--port", "PORT", ON_ONE, PORT, AT(instance.port), "port of the instance [$PORT]"},
    {"--host", "HOST", ON_ONE, TEXT, AT(instance.host),
        "what gateways connect to [$HOSTNAME, else this machine's name]"},
    {"--id", "ID", ON_ONE, TEXT, AT(instance.id), "instance id [SERVICE-HOST-PORT]"},
    {"--url", "URL", ON_JOIN, TEXT, AT(instance.url), "base URL of the instance [http://HOST:PORT]"},
    {"--health-path", "PATH", ON_JOIN, TEXT, AT(instance.health_path),
        "path that health checks ask for [/health]"},
    {"--weight", "N", ON_JOIN, WEIGHT, AT(instance.weight), "share of the load, 1 to 65535 [1]"},
    {"--zone", "ZONE", ON_JOIN, TEXT, AT(instance.zone), "zone of the instance"},
    {"--app-version", "VERSION", ON_JOIN, TEXT, AT(instance.version), "version of the program"},
    {"--metadata", "KEY=VALUE", ON_JOIN, PAIR, AT(metadata), "further data for strategies; may be repeated"},
    {"--registry", "URL", ON_ALL, TEXT, AT(client.registry_url),
        "the registry [$REGISTRY_URL, else 127.0.0.1:8081, grpc :9091]"},
    {"--protocol", "http|grpc", ON_ALL, PROTOCOL, AT(client.protocol), "how to speak to the registry [http]"},
    {"--timeout", "DURATION", ON_ALL, DURATION_MS, AT(client.timeout_ms), "limit of each call [5s]"},
    {"--heartbeat", "DURATION", ON_RUN, DURATION_MS, AT(client.heartbeat_ms),
        "time between heartbeats [10s]"},
    {"--metrics-port", "PORT", ON_RUN, PORT, AT(client.metrics_port),
        "serve GET /metrics on it [$METRICS_PORT, else none]"},
    {"--ready-timeout", "DURATION", ON_RUN, DURATION_US, AT(ready_timeout_us),
        "limit for the port to accept, 0: none [2m]"},
    {"--drain", "DURATION", ON_RUN, DURATION_US, AT(drain_us),
        "time between leaving the registry and the signal [0s]"},
    {"--grace", "DURATION", ON_RUN, DURATION_US, AT(grace_us), "time between the signal and SIGKILL [10s]"},
    {"--json", NULL, ON_LIST, FLAG, AT(json), "print the registry's JSON"},
    {"--quiet", NULL, ON_ALL, FLAG, AT(quiet), "log warnings only"},
    {"--help", NULL, ON_ALL, FLAG, AT(help), "print this"},
};
enum { ROWS = sizeof table / sizeof table[0] };

int
exit_code_of(enum flux_error error)
{
    switch (error) {
    case FLUX_OK: return 0;
    case FLUX_INVALID: return EXIT_USAGE;
    case FLUX_UNKNOWN_ID: return EXIT_UNKNOWN;
    case FLUX_UNREACHABLE:
    case FLUX_TIMEOUT: return EXIT_UNAVAILABLE;
    case FLUX_REJECTED: return EXIT_REFUSED;
    case FLUX_NO_MEMORY:
    case FLUX_SYSTEM: return EXIT_SYSTEM;
    }
    return EXIT_SYSTEM;
}

static bool
complain(const struct command *command, const char *name, const char *what)
{
    fprintf(stderr, "flux %s: %s: %s\n", command->name, name, what);
    return false;
}

static bool
unknown(const struct command *command, struct slice name)
{
    const char *names[ROWS + 1], *near;
    size_t count = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].commands & command->bit) names[count++] = table[i].name;
    }
    names[count] = NULL;
    near = text_nearest(name, names);
    fprintf(stderr, "flux %s: %.*s: no such option", command->name, (int)name.len, name.at);
    if (near != NULL) fprintf(stderr, "; did you mean %s?", near);
    fprintf(stderr, "\nTry 'flux %s --help'.\n", command->name);
    return false;
}

/* KEY=VALUE into the metadata's JSON object. */
static bool
add_pair(char **metadata, const char *text)
{
    const char *equals = strchr(text, '=');
    json_t *object = *metadata == NULL ? json_object() : json_loads(*metadata, 0, NULL);
    bool ok = equals != NULL && equals != text && object != NULL;
    char *dumped = NULL, *key = ok ? strndup(text, (size_t)(equals - text)) : NULL;
    if (key != NULL && json_object_set_new(object, key, json_string(equals + 1)) == 0) {
        dumped = json_dumps(object, JSON_COMPACT);
    }
    free(key);
    json_decref(object);
    if (dumped == NULL) return false;
    free(*metadata);
    *metadata = dumped;
    return true;
}

static bool
take_duration(const struct command *command, const struct option *option, const char *value, void *field)
{
    uint64_t us;
    if (!text_parse_duration(slice_of(value), &us)) {
        return complain(command, option->name, "a duration such as 500ms, 10s or 1m30s is expected");
    }
    if (option->kind == DURATION_US) {
        *(uint64_t *)field = us;
        return true;
    }
    if (us < 1000 || us / 1000 > 24 * 3600 * 1000) return complain(command, option->name, "from 1ms to 24h");
    *(unsigned *)field = (unsigned)(us / 1000);
    return true;
}

static bool
take(const struct command *command, const struct option *option, const char *value, struct options *options)
{
    void *field = (char *)options + option->offset;
    uint64_t number;
    switch (option->kind) {
    case FLAG: *(bool *)field = true; return true;
    case TEXT: *(const char **)field = value; return true;
    case PORT:
        if (!text_parse_u64(slice_of(value), 65535, &number) || number == 0) {
            return complain(command, option->name, "a port from 1 to 65535 is expected");
        }
        *(int *)field = (int)number;
        return true;
    case WEIGHT:
        if (!text_parse_u64(slice_of(value), 65535, &number) || number == 0) {
            return complain(command, option->name, "a number from 1 to 65535 is expected");
        }
        *(unsigned *)field = (unsigned)number;
        return true;
    case DURATION_US:
    case DURATION_MS: return take_duration(command, option, value, field);
    case PROTOCOL:
        if (strcmp(value, "http") != 0 && strcmp(value, "grpc") != 0) {
            return complain(command, option->name, "http or grpc is expected");
        }
        *(enum flux_protocol *)field = value[0] == 'g' ? FLUX_GRPC : FLUX_HTTP;
        return true;
    case PAIR:
        return add_pair(field, value) || complain(command, option->name, "KEY=VALUE in UTF-8 is expected");
    }
    return false;
}

static const struct option *
find(const struct command *command, struct slice name)
{
    for (size_t i = 0; i < ROWS; i++) {
        if ((table[i].commands & command->bit) && slice_equal(slice_of(table[i].name), name))
            return &table[i];
    }
    return NULL;
}

/* argv[*at] and perhaps its value behind it. */
static bool
parse_one(const struct command *command, int argc, char **argv, int *at, struct options *options)
{
    const char *word = argv[*at], *equals = strchr(word, '='), *value = NULL;
    struct slice name = slice_of(word);
    const struct option *option;
    if (equals != NULL) name.len = (size_t)(equals - word);
    if (strcmp(word, "-h") == 0) name = SLICE_LIT("--help");
    if (word[0] != '-') return complain(command, word, "options begin with --");
    option = find(command, name);
    if (option == NULL) return unknown(command, name);
    if (option->kind == FLAG && equals != NULL) return complain(command, option->name, "takes no value");
    if (option->kind != FLAG) {
        value = equals != NULL ? equals + 1 : *at + 1 < argc ? argv[++*at] : NULL;
        if (value == NULL || value[0] == '\0') return complain(command, option->name, "a value is missing");
    }
    return take(command, option, value, options);
}

bool
options_parse(const struct command *command, int argc, char **argv, struct options *options)
{
    memset(options, 0, sizeof *options);
    options->ready_timeout_us = 120 * 1000000ULL;
    options->grace_us = 10 * 1000000ULL;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            options->command = argv + i + 1;
            break;
        }
        if (command->bit == ON_RUN && argv[i][0] != '-') {
            options->command = argv + i; /* the command may also follow without "--" */
            break;
        }
        if (!parse_one(command, argc, argv, &i, options)) return false;
    }
    if (options->help) return true;
    if (command->bit == ON_RUN && (options->command == NULL || options->command[0] == NULL)) {
        return complain(command, "--", "the command to run is missing");
    }
    if (command->bit != ON_RUN && options->command != NULL)
        return complain(command, "--", "takes no command");
    options->instance.metadata_json = options->metadata;
    options->client.token = getenv("REGISTRY_TOKEN");
    return true;
}

void
options_fini(struct options *options)
{
    free(options->metadata);
    options->metadata = NULL;
}

void
options_help(const struct command *command, FILE *out)
{
    fprintf(out, "usage: flux %s [options]%s%s\n\n%s\n\noptions, with their [defaults]:\n", command->name,
        command->arguments[0] != '\0' ? " " : "", command->arguments, command->details);
    for (size_t i = 0; i < ROWS; i++) {
        char left[64];
        if (!(table[i].commands & command->bit)) continue;
        snprintf(
            left, sizeof left, "%s %s", table[i].name, table[i].argument == NULL ? "" : table[i].argument);
        fprintf(out, "  %-26s %s\n", left, table[i].help);
    }
    fprintf(out, "\nA bearer token is taken from $REGISTRY_TOKEN.\n");
}

static void
on_event(void *context, const char *event, const char *detail)
{
    size_t len = strlen(event);
    (void)context;
    if (strcmp(event, "forgotten") == 0 || (len > 7 && strcmp(event + len - 7, " failed") == 0)) {
        log_warnx(event, F_STR("why", detail));
    } else if (strcmp(event, "invalid") == 0) {
        fprintf(stderr, "flux: %s\n", detail);
    } else {
        log_info(event, F_STR("id", detail));
    }
}

struct flux_client *
options_client(struct options *options, int *exit_code)
{
    enum flux_error error;
    struct flux_client *client;
    options->client.on_event = on_event;
    log_init("flux", options->quiet ? LOG_WARN : LOG_INFO, LOG_LOGFMT);
    client = flux_new(&options->instance, &options->client, &error);
    if (client != NULL) return client;
    if (error != FLUX_INVALID) fprintf(stderr, "flux: %s\n", flux_strerror(error));
    *exit_code = exit_code_of(error);
    return NULL;
}
