#include <stdlib.h>
#include <unistd.h>

#include "core/base/text.h"
#include "core/config/node.h"

static bool
name_is_valid(struct slice name)
{
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.at[i];
        bool letter = (unsigned char)((c | 0x20) - 'a') < 26 || c == '_';
        if (!letter && (i == 0 || (unsigned char)(c - '0') > 9)) return false;
    }
    return name.len > 0;
}

/* The names that are set, for the hint; borrowed from the environment's own memory through `load`'s arena. */
static const char *
nearest_variable(struct load *load, struct slice wrong)
{
    enum { NAMES_MAX = 512 };
    const char **names = load_alloc(load, (NAMES_MAX + 1) * sizeof *names);
    size_t count = 0;
    if (names == NULL) return NULL;
    for (char **at = environ; at != NULL && *at != NULL && count < NAMES_MAX; at++) {
        const char *end = strchr(*at, '=');
        if (end == NULL) continue;
        names[count] = arena_strdup(load->arena, (struct slice){*at, (size_t)(end - *at)});
        if (names[count] != NULL) count++;
    }
    return text_nearest(wrong, names);
}

/* `inside` is what stands between the braces. */
static bool
expand_one(struct load *load, struct place place, struct slice inside, struct strbuf *out)
{
    const char *divider = memmem(inside.at, inside.len, ":-", 2);
    struct slice name = {inside.at, divider == NULL ? inside.len : (size_t)(divider - inside.at)};
    const char *name_text = arena_strdup(load->arena, name);
    if (name_text == NULL) {
        load->diags->failed = true;
        return false;
    }
    if (!name_is_valid(name)) {
        refuse(load, place, NULL,
            "expected ${NAME} or ${NAME:-default}, found ${%s} (write $${ for ${ itself)", name_text);
        return false;
    }
    const char *value = getenv(name_text);
    if (value != NULL && divider != NULL && value[0] == '\0')
        value = NULL; /* as in the shell: ':-' covers empty */
    if (value == NULL && divider != NULL) {
        strbuf_add(out, divider + 2, inside.len - name.len - 2);
        return true;
    }
    if (value == NULL) {
        refuse(
            load, place, nearest_variable(load, name), "the environment variable %s is not set", name_text);
        return false;
    }
    if (!text_is_utf8(slice_of(value))) {
        refuse(load, place, NULL, "the environment variable %s does not hold UTF-8", name_text);
        return false;
    }
    strbuf_add_text(out, value);
    return true;
}

static bool
expand_all(struct load *load, struct place place, struct slice text, struct strbuf *out)
{
    bool ok = true;
    for (size_t i = 0; i < text.len;) {
        struct slice rest = {text.at + i, text.len - i};
        if (slice_starts_with(rest, SLICE_LIT("$${"))) {
            strbuf_add(out, "${", 2);
            i += 3;
        } else if (slice_starts_with(rest, SLICE_LIT("${"))) {
            const char *end = memchr(rest.at, '}', rest.len);
            if (end == NULL) {
                refuse(load, place, NULL, "'${' without its '}' (write $${ for ${ itself)");
                return false;
            }
            size_t len = (size_t)(end - rest.at);
            ok = expand_one(load, place, (struct slice){rest.at + 2, len - 2}, out) && ok;
            i += len + 1;
        } else {
            strbuf_add_char(out, text.at[i++]);
        }
        if (out->len > CONFIG_TEXT_BYTES) break; /* said by env_expand */
    }
    return ok;
}

bool
env_expand(struct load *load, struct place place, struct slice text, const char **out)
{
    struct strbuf buf = {0};
    bool ok = true;
    *out = NULL;
    if (memmem(text.at, text.len, "${", 2) == NULL) {
        *out = arena_strdup(load->arena, text);
        load->text_bytes += text.len;
    } else {
        ok = expand_all(load, place, text, &buf);
        load->text_bytes += buf.len;
        if (!buf.failed && load->text_bytes <= CONFIG_TEXT_BYTES)
            *out = arena_strdup(load->arena, (struct slice){buf.at == NULL ? "" : buf.at, buf.len});
        strbuf_fini(&buf);
        if (load->text_bytes > CONFIG_TEXT_BYTES) {
            refuse(load, place, NULL, "more than %d bytes of values in all", CONFIG_TEXT_BYTES);
            return false;
        }
    }
    if (*out == NULL) {
        load->diags->failed = true;
        return false;
    }
    return ok;
}
