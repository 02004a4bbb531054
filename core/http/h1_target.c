#include <string.h>

#include "core/http/h1_internal.h"
#include "core/http/uri.h"

/* host[:port] with an empty port left off, so that one authority has one form. */
static bool
authority_read(struct slice text, struct slice *authority)
{
    struct slice host, port;
    if (!uri_authority_split(text, &host, &port)) return false;
    *authority = text;
    if (port.len == 0 && text.at[text.len - 1] == ':') authority->len--;
    return true;
}

static void
path_split(struct h1_head *head, struct slice rest)
{
    const char *mark = rest.len > 0 ? memchr(rest.at, '?', rest.len) : NULL;
    head->path = rest;
    if (mark == NULL) return;
    head->path.len = (size_t)(mark - rest.at);
    head->query = (struct slice){mark + 1, rest.len - head->path.len - 1};
    head->has_query = true;
}

static enum h1_error
absolute_read(struct h1_head *head)
{
    struct slice rest = head->target;
    size_t scheme = 0;
    if (rest.len > 7 && slice_equal_nocase((struct slice){rest.at, 7}, SLICE_LIT("http://"))) scheme = 7;
    if (rest.len > 8 && slice_equal_nocase((struct slice){rest.at, 8}, SLICE_LIT("https://"))) scheme = 8;
    if (scheme == 0) return H1_BAD_TARGET;
    rest = (struct slice){rest.at + scheme, rest.len - scheme};
    size_t len = 0;
    while (len < rest.len && rest.at[len] != '/' && rest.at[len] != '?')
        len++;
    if (!authority_read((struct slice){rest.at, len}, &head->authority)) return H1_BAD_TARGET;
    head->form = TARGET_ABSOLUTE;
    path_split(head, (struct slice){rest.at + len, rest.len - len});
    if (head->path.len > 0) return H1_OK;
    head->path = SLICE_LIT("/");
    if (head->method == METHOD_OPTIONS && !head->has_query) { /* RFC 9112 §3.2.4: the last proxy sends "*" */
        head->form = TARGET_ASTERISK;
        head->path = SLICE_LIT("*");
    }
    return H1_OK;
}

enum h1_error
h1_target_read(struct h1_head *head)
{
    struct slice target = head->target, host, port;
    if (head->method == METHOD_CONNECT) { /* §3.2.3: the only method with authority-form, and with no other */
        if (!uri_authority_split(target, &host, &port) || port.len == 0) return H1_BAD_TARGET;
        head->form = TARGET_AUTHORITY;
        head->authority = target;
        return H1_OK;
    }
    if (target.at[0] == '/') {
        head->form = TARGET_ORIGIN;
        path_split(head, target);
        return H1_OK;
    }
    if (target.len == 1 && target.at[0] == '*') { /* §3.2.4 */
        if (head->method != METHOD_OPTIONS) return H1_BAD_TARGET;
        head->form = TARGET_ASTERISK;
        head->path = target;
        return H1_OK;
    }
    return absolute_read(head);
}

/* RFC 9112 §3.2: one Host in 1.1, at most one in 1.0, and a valid one even where the target's own authority
 * overrides it (§3.2.2). An empty one means that the URI has no authority, which an http URI must have (RFC
 * 9110 §4.2.1): only 1.0, which knows no Host, may leave it so. */
enum h1_error
h1_host_decide(struct h1_head *head)
{
    const struct header *row = headers_find(&head->headers, HEADER_HOST);
    struct slice authority;
    if (row == NULL) return head->minor == 0 ? H1_OK : H1_BAD_HOST;
    if (headers_next(&head->headers, row) != NULL) return H1_BAD_HOST;
    if (row->value.len == 0) return head->minor == 0 ? H1_OK : H1_BAD_HOST;
    if (!authority_read(row->value, &authority)) return H1_BAD_HOST;
    if (head->authority.len == 0) head->authority = authority;
    return H1_OK;
}
