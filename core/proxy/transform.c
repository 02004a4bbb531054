#include <string.h>

#include "core/base/strbuf.h"
#include "core/http/encode.h"
#include "core/proxy/filtering.h"

/*  endpoint -> source (framing off) -> stages (Lua) -> staged -> encoder -> out -> down (framing on) ->
 * client
 *
 * One piece at a time: the next one is made when the client's socket took the last. */
struct transform {
    struct relay source;
    struct encoder *encoder; /* NULL: none */
    bool has_stages;
    bool is_last;      /* `todo` is the body's end */
    bool is_sealed;    /* and all of it is queued */
    bool has_more;     /* in the encoder */
    struct slice todo; /* staged, not yet encoded or queued; in `staged` or in stream->back */
    struct buf *staged, *out;
};

/* headers */

static void
drop_named(struct headers *headers, struct slice name)
{
    for (struct header *row = headers_find_name(headers, name); row != NULL; row = headers_next(headers, row))
        row->flags |= HEADER_F_DROP;
}

/* RFC 9110 §8.8.3: other bytes, so at best a weak tag. */
static bool
weaken_tag(struct headers *headers, struct arena *arena)
{
    struct header *row = headers_find_name(headers, SLICE_LIT("etag"));
    if (row == NULL || slice_starts_with(row->value, SLICE_LIT("W/"))) return true;
    const char *weak = arena_printf(arena, "W/%.*s", (int)row->value.len, row->value.at);
    row->value = slice_of(weak);
    return weak != NULL;
}

/* What leaves once the body is no longer the endpoint's bytes: as the response's own methods do it. */
static bool
change_headers(struct stream *stream, struct headers *headers)
{
    static const char *const names[] = {"accept-ranges", "content-md5", "digest", "content-digest"};
    static const char *const codings[] = {
        [FILTER_GZIP] = "gzip", [FILTER_DEFLATE] = "deflate", [FILTER_ZSTD] = "zstd"};
    const struct filter_response *response = &stream->filtering->response;
    headers_drop(headers, HEADER_CONTENT_LENGTH);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        drop_named(headers, slice_of(names[i]));
    if (!weaken_tag(headers, &stream->arena)) return false;
    if (response->encoding == FILTER_IDENTITY || headers_find(headers, HEADER_CONTENT_ENCODING) != NULL)
        return true;
    return headers_add(headers, &stream->arena, HEADER_CONTENT_ENCODING, SLICE_LIT("Content-Encoding"),
        slice_of(codings[response->encoding]));
}

static bool
encoder_for(const struct filter_response *response, struct encoder **encoder)
{
    static const enum encode_kind kinds[] = {
        [FILTER_GZIP] = ENCODE_GZIP, [FILTER_DEFLATE] = ENCODE_DEFLATE, [FILTER_ZSTD] = ENCODE_ZSTD};
    int usual = response->encoding == FILTER_ZSTD ? 3 : 6;
    *encoder = NULL;
    if (response->encoding == FILTER_IDENTITY) return true;
    *encoder = encoder_new(kinds[response->encoding], response->level == 0 ? usual : response->level);
    return *encoder != NULL;
}

static bool
is_changed(const struct filter_response *response)
{
    return response->has_body && (response->has_stages || response->encoding != FILTER_IDENTITY);
}

/* as it streams */

bool
transform_begin(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct h1_head *head = &stream->response.head;
    if (!is_changed(&filtering->response)) return true;
    struct transform *transform = arena_calloc(&stream->arena, sizeof *transform);
    if (transform == NULL || !change_headers(stream, &head->headers) ||
        !encoder_for(&filtering->response, &transform->encoder))
        return false;
    transform->has_stages = filtering->response.has_stages;
    relay_init(&transform->source, head->body, BODY_CLOSE, head->length, stream->back);
    if (head->body == BODY_NONE) head->body = BODY_LENGTH; /* an empty one, of which stages may make more */
    filtering->transform = transform;
    return true;
}

void
transform_end(struct stream *stream)
{
    struct transform *transform = stream->filtering->transform;
    if (transform == NULL) return;
    stream->filtering->transform = NULL;
    stream->down.buf = transform->source.buf; /* what is behind the body, if anything */
    encoder_free(transform->encoder);
    buf_give(&stream->proxy->buffers, &transform->staged);
    buf_give(&stream->proxy->buffers, &transform->out);
}

enum step { STEP_QUEUED, STEP_EMPTY, STEP_BAD_SOURCE, STEP_FAILED, STEP_NO_MEMORY };

/* The next run of the endpoint's bytes. */
static enum step
next_chunk(struct transform *transform, struct arena *arena, struct slice *chunk)
{
    struct relay *source = &transform->source;
    if (source->iov_at == source->iov_count) {
        source->iov_at = source->iov_count = source->scratch_used = 0;
        if (!relay_fill(source, arena)) return STEP_BAD_SOURCE;
    }
    if (source->iov_at < source->iov_count) {
        struct iovec *iov = &source->iov[source->iov_at++];
        *chunk = (struct slice){iov->iov_base, iov->iov_len};
    } else if (source->state == RELAY_ENDED) {
        *chunk = (struct slice){"", 0};
    } else {
        return STEP_EMPTY;
    }
    transform->is_last = source->iov_at == source->iov_count && source->state == RELAY_ENDED;
    return STEP_QUEUED;
}

/* What the stages gave is the script's until the next call into it, and the client may be slow. */
static enum step
stage(struct stream *stream, struct transform *transform, struct slice chunk)
{
    struct slice out;
    transform->todo = chunk;
    if (!transform->has_stages) return STEP_QUEUED;
    if (!filter_body(stream->filtering->chain, chunk, transform->is_last, &out)) return STEP_FAILED;
    transform->todo = SLICE_NONE;
    buf_give(&stream->proxy->buffers, &transform->staged);
    if (out.len == 0) return STEP_QUEUED;
    transform->staged = buf_take(&stream->proxy->buffers, out.len);
    if (transform->staged == NULL) return STEP_NO_MEMORY;
    memcpy(transform->staged->bytes, out.at, out.len);
    transform->todo = (struct slice){transform->staged->bytes, out.len};
    return STEP_QUEUED;
}

static enum step
encode(struct stream *stream, struct transform *transform)
{
    size_t len = 0;
    if (transform->out == NULL)
        transform->out = buf_take(&stream->proxy->buffers, BUF_LARGE - sizeof(struct buf));
    if (transform->out == NULL) return STEP_NO_MEMORY;
    if (!encoder_step(transform->encoder, &transform->todo, transform->is_last, transform->out->bytes,
            transform->out->cap, &len, &transform->has_more))
        return STEP_FAILED;
    if (len > 0) relay_queue_data(&stream->down, (struct slice){transform->out->bytes, len});
    return STEP_QUEUED;
}

/* Queues the next piece: of what is staged, of what the endpoint sent, or the end. */
static enum step
next_piece(struct stream *stream, struct transform *transform)
{
    enum step step = STEP_QUEUED;
    if (transform->is_sealed)
        return relay_queue_end(&stream->down, &stream->arena) ? STEP_QUEUED : STEP_FAILED;
    if (transform->todo.len == 0 && !transform->has_more && !transform->is_last) {
        struct slice chunk = SLICE_NONE;
        step = next_chunk(transform, &stream->arena, &chunk);
        if (step == STEP_QUEUED) step = stage(stream, transform, chunk);
        if (step != STEP_QUEUED) return step;
    }
    if (transform->encoder != NULL) {
        step = encode(stream, transform);
    } else if (transform->todo.len > 0) {
        relay_queue_data(&stream->down, transform->todo);
        transform->todo = SLICE_NONE;
    }
    if (step == STEP_QUEUED && transform->is_last && transform->todo.len == 0 && !transform->has_more) {
        transform->is_sealed = true;
        stream->down.chunked.trailers = transform->source.chunked.trailers;
    }
    return step;
}

static void
wait_for_more(struct stream *stream, struct transform *transform)
{
    transform->source.buf = NULL;
    buf_give(&stream->proxy->buffers, &transform->staged);
    buf_give(&stream->proxy->buffers, &transform->out);
    stream_wait_for_back(stream);
}

/* False: the endpoint has no more now, or the stream is over. */
static bool
read_more(struct stream *stream, struct transform *transform, bool *may_read)
{
    conn_want_write(stream->conn, false);
    if (*may_read) {
        switch (stream_read_back(stream, &transform->source)) {
        case BODY_READ_ALL: return true;
        case BODY_READ: *may_read = false; return true;
        case BODY_AGAIN: break;
        case BODY_FAILED: return false;
        }
    }
    wait_for_more(stream, transform);
    return false;
}

void
transform_pump(struct stream *stream, bool may_read)
{
    struct transform *transform = stream->filtering->transform;
    struct relay *down = &stream->down;
    for (unsigned round = 0;;) {
        switch (relay_flush(down, stream->conn->fd, &stream->bytes_out)) {
        case PUMP_SINK:
            conn_want_write(stream->conn, true);
            stream_arm(stream);
            return;
        case PUMP_SINK_ERROR: stream_client_gone(stream); return;
        default: break;
        }
        if (down->state == RELAY_ENDED) {
            down->state = RELAY_DONE;
            stream_look_behind(stream, &transform->source);
            transform_end(stream);
            stream_close(stream, REASON_NONE);
            return;
        }
        switch (next_piece(stream, transform)) {
        case STEP_QUEUED: break;
        case STEP_BAD_SOURCE: stream_cut(stream, REASON_BAD_RESPONSE); return;
        case STEP_FAILED: stream_close(stream, REASON_FILTER_ERROR); return;
        case STEP_NO_MEMORY: stream_close(stream, REASON_SHED); return;
        case STEP_EMPTY:
            if (round++ == READ_ROUNDS) may_read = false;
            if (!read_more(stream, transform, &may_read)) return;
        }
    }
}

/* as a whole */

static bool
encode_whole(struct encoder *encoder, struct slice in, struct strbuf *out)
{
    char piece[4096];
    bool has_more = true;
    while (has_more || in.len > 0) {
        size_t len = 0;
        if (!encoder_step(encoder, &in, true, piece, sizeof piece, &len, &has_more)) return false;
        strbuf_add(out, piece, len);
    }
    return !out->failed;
}

bool
transform_whole(struct stream *stream, struct headers *headers, struct slice *body)
{
    struct filtering *filtering = stream->filtering;
    const struct filter_response *response = &filtering->response;
    struct encoder *encoder;
    struct strbuf encoded = {0};
    struct slice out = *body;
    if (!is_changed(response)) return true;
    if (!change_headers(stream, headers)) return false;
    if (response->has_stages && !filter_body(filtering->chain, *body, true, &out)) return false;
    if (!encoder_for(response, &encoder)) return false;
    bool ok = encoder == NULL || encode_whole(encoder, out, &encoded);
    if (encoder != NULL) out = strbuf_slice(&encoded);
    const char *copy = ok ? arena_strdup(&stream->arena, out) : NULL;
    *body = (struct slice){copy, out.len};
    encoder_free(encoder);
    strbuf_fini(&encoded);
    return copy != NULL;
}
