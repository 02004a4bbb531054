/* core/main/command_admin.c: `fluxgate reload` and `fluxgate status`: they ask the running gateway's admin
 * address. */
#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/config/config.h"
#include "core/main/command.h"

enum { ANSWER_MAX = 64 << 20 };

static size_t
on_bytes(char *bytes, size_t size, size_t count, void *context)
{
    struct strbuf *answer = context;
    if (answer->len + size * count > ANSWER_MAX) return 0;
    strbuf_add(answer, bytes, size * count);
    return answer->failed ? 0 : size * count;
}

/* The admin address: given, or the one in the configuration file. False: said on standard error. */
static bool
find_admin(const struct command_args *args, struct strbuf *base, struct strbuf *unix_path)
{
    struct diags diags = {0};
    bool ok = false;
    if (args->admin != NULL) {
        strbuf_printf(base, "%s%s", strstr(args->admin, "://") == NULL ? "http://" : "", args->admin);
        return !base->failed;
    }
    struct bundle *bundle = bundle_open();
    struct config *config = bundle == NULL ? NULL : config_load(bundle, args->config, &diags);
    if (config == NULL) {
        diags_print(&diags, stderr);
    } else if (!config->has_admin) {
        fprintf(stderr, "fluxgate: %s names no admin address; add\n  admin: { address: 127.0.0.1:9901 }\n",
            args->config);
    } else if (config->admin.is_unix) {
        strbuf_add_text(unix_path, config->admin.host);
        strbuf_add_text(base, "http://localhost");
        ok = true;
    } else if (config->admin.port == 0) {
        fprintf(stderr,
            "fluxgate: the admin port in %s is 0, chosen at start; give it with --admin HOST:PORT\n",
            args->config);
    } else {
        const char *host = config->admin.host;
        if (host[0] == '\0' || strcmp(host, "0.0.0.0") == 0) host = "127.0.0.1";
        strbuf_printf(
            base, strchr(host, ':') == NULL ? "http://%s:%u" : "http://[%s]:%u", host, config->admin.port);
        ok = true;
    }
    diags_fini(&diags);
    config_free(config);
    bundle_free(bundle);
    return ok;
}

/* One request; the exit code. *status and `answer` tell what came where it is EXIT_DONE. */
static int
ask(const struct command_args *args, const char *path, bool post, long *status, struct strbuf *answer)
{
    struct strbuf base = {0}, unix_path = {0};
    char error[CURL_ERROR_SIZE] = "";
    int code = EXIT_FAILED;
    CURL *curl = NULL;
    if (!find_admin(args, &base, &unix_path)) goto out;
    strbuf_add_text(&base, path);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == 0) curl = curl_easy_init();
    if (curl == NULL || base.failed) {
        fputs("fluxgate: out of memory\n", stderr);
        code = EXIT_OS;
        goto out;
    }
    curl_easy_setopt(curl, CURLOPT_URL, base.at);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    if (unix_path.len > 0) curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, unix_path.at);
    if (post) curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, "");
    CURLcode result = curl_easy_perform(curl);
    if (result != CURLE_OK) {
        fprintf(stderr, "fluxgate: %s: %s\nIs the gateway running? `fluxgate run -c FILE` starts it.\n",
            base.at, error[0] != '\0' ? error : curl_easy_strerror(result));
        code = EXIT_UNREACHABLE;
        goto out;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status);
    code = EXIT_DONE;
out:
    curl_easy_cleanup(curl);
    strbuf_fini(&base);
    strbuf_fini(&unix_path);
    return code;
}

static int
run_reload(const struct command_args *args)
{
    struct strbuf answer = {0};
    long status = 0;
    int code = ask(args, "/api/v1/reload", true, &status, &answer);
    if (code == EXIT_DONE) {
        bool ok = status == 200;
        if (answer.len > 0)
            fprintf(ok ? stdout : stderr, "%s%s", answer.at, answer.at[answer.len - 1] == '\n' ? "" : "\n");
        code = ok ? EXIT_DONE : EXIT_FAILED;
    }
    strbuf_fini(&answer);
    return code;
}

const struct command command_reload = {
    .name = "reload",
    .summary = "reload the running gateway's configuration and scripts, and wait for the outcome",
    .usage = "reload -c FILE | --admin HOST:PORT",
    .help = "Does what SIGHUP does, then waits: exits 0 when every worker serves the new generation, 1 with "
            "the reasons when it\n"
            "was refused and the present generation goes on.",
    .options = "ca",
    .run = run_reload,
};

static const char *
text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL ? "-" : text;
}

static long long
number_of(const json_t *object, const char *key)
{
    return (long long)json_number_value(json_object_get(object, key));
}

static void
print_endpoints(const struct command_args *args)
{
    struct strbuf answer = {0};
    long status = 0;
    size_t i;
    json_t *row;
    if (ask(args, "/api/v1/endpoints", false, &status, &answer) == EXIT_DONE && status == 200) {
        json_t *root = json_loads(answer.at == NULL ? "" : answer.at, 0, NULL);
        const json_t *rows = json_is_array(root) ? root : json_object_get(root, "endpoints");
        printf("\n%-20s %-28s %-22s %-10s %6s  %s\n", "SERVICE", "ENDPOINT", "ADDRESS", "STATE", "ACTIVE",
            "WHY");
        json_array_foreach(rows, i, row)
        {
            printf("%-20s %-28s %-22s %-10s %6lld  %s\n", text_of(row, "service"), text_of(row, "id"),
                text_of(row, "address"), text_of(row, "state"), number_of(row, "active"),
                text_of(row, "reason"));
        }
        json_decref(root);
    }
    strbuf_fini(&answer);
}

/* Plug-ins that are in trouble, if any. */
static void
print_scripts(const json_t *rows)
{
    bool any = false;
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (number_of(row, "errors") == 0) continue;
        if (!any) printf("\n%-20s %-28s %8s %-9s  %s\n", "SCRIPT", "OF", "ERRORS", "SET ASIDE", "LAST ERROR");
        any = true;
        printf("%-20s %-28s %8lld %-9s  %s\n", text_of(row, "plugin"), text_of(row, "service"),
            number_of(row, "errors"), json_is_true(json_object_get(row, "quarantined")) ? "yes" : "no",
            text_of(row, "last_error"));
    }
}

static int
run_status(const struct command_args *args)
{
    struct strbuf answer = {0};
    long status = 0;
    size_t i;
    json_t *row;
    int code = ask(args, "/api/v1/status", false, &status, &answer);
    if (code == EXIT_DONE && (args->json || status != 200)) {
        printf("%s\n", answer.at == NULL ? "" : answer.at);
        if (status != 200) code = EXIT_FAILED;
    } else if (code == EXIT_DONE) {
        json_t *root = json_loads(answer.at == NULL ? "" : answer.at, 0, NULL);
        printf("fluxgate %s, generation %lld, hash %s\n", text_of(root, "version"),
            number_of(root, "generation"), text_of(root, "hash"));
        json_array_foreach(json_object_get(root, "workers"), i, row)
        {
            printf("worker %lld: pid %lld, generation %lld, %lld connections, %lld streams\n",
                number_of(row, "worker"), number_of(row, "pid"), number_of(row, "generation"),
                number_of(row, "connections"), number_of(row, "streams"));
        }
        print_scripts(json_object_get(root, "scripts"));
        json_decref(root);
        print_endpoints(args);
    }
    strbuf_fini(&answer);
    return code;
}

const struct command command_status = {
    .name = "status",
    .summary = "show generation, workers, endpoints and scripts in trouble of the running gateway",
    .usage = "status [--json] -c FILE | --admin HOST:PORT",
    .help = "Asks the admin address and prints the generation with its hash, each worker, scripts in "
            "trouble with their\n"
            "last error, each endpoint with its state and why.",
    .options = "caj",
    .run = run_status,
};
