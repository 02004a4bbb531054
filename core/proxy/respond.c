#include "core/proxy/filtering.h"

static bool
is_bodiless(int status)
{
    return status == 101 || status == 204 || status == 304;
}

/* A filter's or a route's own answer, as on_response left it. */
static void
send_own(struct stream *stream, struct slice body, bool is_filters)
{
    struct filtering *filtering = stream->filtering;
    struct filter_response *response = &filtering->response;
    if (filtering->failure != REASON_NONE) /* whatever a filter made of it */
        stream->reason = filtering->failure;
    else
        stream->reason = is_filters && response->status >= 400 ? REASON_FILTER_DENIED : REASON_NONE;
    struct filter_answer answer = {response->status, *response->headers, body};
    if (!transform_whole(stream, &answer.headers, &answer.body)) {
        reply_reason(stream, REASON_FILTER_ERROR, 0, NULL);
        return;
    }
    reply_answer(stream, &answer);
}

static void
send_endpoints(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct h1_head *head = &stream->response.head;
    int status = filtering->response.status;
    stream->nudge_us = 0; /* an interim answer has no place any more */
    if (head->status == 101 && status == 101) {
        tunnel_begin(stream);
        return;
    }
    if (head->status == 101) { /* refused by its status: there is no body to go with it */
        headers_drop(&head->headers, HEADER_UPGRADE);
        send_own(stream, SLICE_NONE, true);
        return;
    }
    head->status = status;
    if (status == 204) headers_drop(&head->headers, HEADER_CONTENT_LENGTH); /* RFC 9110 §8.6 */
    if (!filtering->response.has_body && head->body != BODY_NONE) { /* a HEAD that a filter made a GET */
        head->body = BODY_NONE;
        head->keep_alive = false;
    }
    if (transform_begin(stream))
        response_send(stream);
    else
        reply_reason(stream, REASON_SHED, 0, NULL);
}

void
respond_went(struct stream *stream, enum filter_verdict verdict)
{
    struct filtering *filtering = stream->filtering;
    const struct filter_answer *given = filtering->response.answer;
    const struct filter_request *request = &filtering->request;
    switch (verdict) {
    case FILTER_WAIT: /* only now: filters that do not wait cost no epoll_ctl(2) */
        if (stream->upstream != NULL) upstream_want_read(stream->upstream, false);
        filtering_wait(stream);
        return;
    case FILTER_FAILED:
        reply_reason(stream,
            request->failure.reason == REASON_NONE ? REASON_FILTER_ERROR : request->failure.reason,
            request->failure.status, request->failure.sentence);
        return;
    case FILTER_ANSWERED:
    case FILTER_GO: break;
    }
    if (given != NULL)
        send_own(stream, given->body, true);
    else if (filtering->answer != NULL)
        send_own(stream, filtering->answer->body, filtering->answer == request->answer);
    else
        send_endpoints(stream);
}

static void
run(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    filtering->phase = FILTERING_ANSWER;
    filtering->waited_us = 0;
    respond_went(stream, filter_run_response(filtering->chain, &filtering->response));
}

void
respond_with(struct stream *stream, const struct filter_answer *answer)
{
    struct filtering *filtering = stream->filtering;
    struct headers *headers = arena_alloc(&stream->arena, sizeof *headers);
    if (headers == NULL) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    *headers = answer->headers;
    filtering->answer = answer;
    filtering->response = (struct filter_response){.status = answer->status,
        .headers = headers,
        .has_body = !filtering->is_head && !is_bodiless(answer->status),
        .slot = SLOT_NONE,
        .reason = filtering->failure};
    run(stream);
}

void
respond_to_failure(struct stream *stream, enum reason reason, const char *sentence)
{
    struct filtering *filtering = stream->filtering;
    if (LIKELY(filtering == NULL) || filtering->phase != FILTERING_SENT || filtering->chain == NULL) {
        reply_reason(stream, reason, 0, sentence);
        return;
    }
    attempt_end(stream);
    body_moves(stream); /* nobody reads the rest of the request while filters wait */
    filtering_restore_ctx(stream);
    stream->nudge_us = 0;
    stream->reason = reason;
    filtering->failure = reason;
    struct filter_answer *answer = arena_alloc(&stream->arena, sizeof *answer);
    if (answer != NULL && reply_make(stream, reason, 0, sentence, answer))
        respond_with(stream, answer);
    else
        reply_reason(stream, REASON_SHED, 0, NULL);
}

void
respond_to_endpoint(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct h1_head *head = &stream->response.head;
    filtering_restore_ctx(stream);
    if (head->status != 204 && head->status != 101) forward_show_length(&head->headers);
    filtering->answer = NULL;
    filtering->response = (struct filter_response){.status = head->status,
        .headers = &head->headers,
        .has_body = !filtering->is_head && !is_bodiless(head->status),
        .slot = stream->slot};
    run(stream);
}
