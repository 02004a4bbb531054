/* The one-shot commands: one call each, for scripts and for a look at the registry. */
#include "flux/command/options.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A call about an id alone needs neither service nor port: any that pass will do. */
static void
fill_unasked(struct options *options)
{
    if (options->instance.id == NULL) return;
    if (options->instance.service_name == NULL) options->instance.service_name = options->instance.id;
    if (options->instance.port == 0) options->instance.port = 1;
}

static int
call_by(struct options *options, enum flux_error (*call)(struct flux_client *), bool print_id)
{
    int code = 0;
    enum flux_error error;
    struct flux_client *client = options_client(options, &code);
    if (client == NULL) return code;
    error = call(client);
    if (error != FLUX_OK)
        fprintf(stderr, "flux: %s: %s\n", flux_id(client), flux_strerror(error));
    else if (print_id)
        printf("%s\n", flux_id(client));
    flux_free(client);
    return exit_code_of(error);
}

static int
run_register(struct options *options)
{
    return call_by(options, flux_register, true);
}

static int
run_heartbeat(struct options *options)
{
    fill_unasked(options);
    return call_by(options, flux_heartbeat, false);
}

static int
run_deregister(struct options *options)
{
    fill_unasked(options);
    return call_by(options, flux_deregister, false);
}

static const char *
field(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text == NULL ? "-" : text;
}

static int
print_table(const char *json)
{
    json_t *all = json_loads(json, 0, NULL), *one;
    size_t i;
    if (!json_is_array(all)) {
        json_decref(all);
        return EXIT_REFUSED;
    }
    printf("%-36s %-20s %-32s %s\n", "ID", "SERVICE", "URL", "HEALTH");
    json_array_foreach(all, i, one)
    {
        printf("%-36s %-20s %-32s %s\n", field(one, "id"), field(one, "serviceName"), field(one, "url"),
            field(one, "healthPath"));
    }
    json_decref(all);
    return 0;
}

static int
run_list(struct options *options)
{
    const char *service = options->instance.service_name;
    char *json = NULL;
    int code = 0;
    enum flux_error error;
    struct flux_client *client;
    options->instance.id = options->instance.service_name = "list"; /* of a client that never registers */
    options->instance.port = 1;
    client = options_client(options, &code);
    if (client == NULL) return code;
    error = flux_healthy(client, service == NULL ? "" : service, &json);
    flux_free(client);
    if (error != FLUX_OK) {
        fprintf(stderr, "flux: %s\n", flux_strerror(error));
        return exit_code_of(error);
    }
    if (options->json)
        printf("%s\n", json);
    else
        code = print_table(json);
    free(json);
    return code;
}

const struct command command_register = {"register", ON_REGISTER, "",
    "register an instance once, without heartbeats",
    "Registers an instance once and prints its id. The registry drops it when its lease ends without a "
    "heartbeat.",
    run_register};
const struct command command_heartbeat = {"heartbeat", ON_HEARTBEAT, "", "send one heartbeat",
    "Renews the lease of an instance, named by --id or by --service, --host and --port as at its "
    "registration.\n"
    "Exits with 67 where the registry does not know it: register again then.",
    run_heartbeat};
const struct command command_deregister = {"deregister", ON_DEREGISTER, "", "take an instance out",
    "Takes an instance out, named by --id or by --service, --host and --port as at its registration.",
    run_deregister};
const struct command command_list = {"list", ON_LIST, "", "print the living instances",
    "Prints the living instances, of one service where --service is given.", run_list};
