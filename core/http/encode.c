#include "core/http/encode.h"

#include <stdlib.h>

#include <zlib.h>
#include <zstd.h>

enum {
    /* zlib repeats its flush marker where it is offered 6 bytes or less (zlib.h, deflate), so where the
     * caller has less room than this, it writes to `held` first. */
    HELD_BYTES = 64,
    STEP_BYTES_MAX = 1 << 30, /* zlib counts in uInt */
    GZIP_WINDOW = 15 + 16,    /* zlib.h, deflateInit2: + 16 writes a gzip header */
    DEFLATE_WINDOW = 15,
    MEMORY_LEVEL = 8, /* zlib's default: 268 kB an encoder */
    /* 64 KiB back, twice gzip's, and small tables: 0.6 to 0.7 MB an encoder at every level, where level 9 of
     * its own accord takes 30 */
    ZSTD_WINDOW_LOG = 16,
    ZSTD_TABLE_LOG = 15,
};

struct encoder {
    enum encode_kind kind;
    bool dirty;    /* what was taken is not flushed yet */
    bool finished; /* the end was made; some of it may stand in `held` */
    z_stream zlib;
    ZSTD_CCtx *zstd;
    size_t held_at, held_len; /* held[held_at...held_len) waits for room */
    char held[HELD_BYTES];
};

static bool
zstd_set(struct encoder *encoder, ZSTD_cParameter parameter, int value)
{
    return !ZSTD_isError(ZSTD_CCtx_setParameter(encoder->zstd, parameter, value));
}

/* An empty step makes the library allocate what it will use. */
static bool
zstd_init(struct encoder *encoder, int level)
{
    ZSTD_inBuffer in = {"", 0, 0};
    ZSTD_outBuffer out = {encoder->held, sizeof(encoder->held), 0};
    encoder->zstd = ZSTD_createCCtx();
    if (encoder->zstd == NULL) return false;
    return zstd_set(encoder, ZSTD_c_compressionLevel, level) &&
           zstd_set(encoder, ZSTD_c_windowLog, ZSTD_WINDOW_LOG) &&
           zstd_set(encoder, ZSTD_c_hashLog, ZSTD_TABLE_LOG) &&
           zstd_set(encoder, ZSTD_c_chainLog, ZSTD_TABLE_LOG) &&
           !ZSTD_isError(ZSTD_compressStream2(encoder->zstd, &out, &in, ZSTD_e_continue)) && out.pos == 0;
}

static bool
zlib_init(struct encoder *encoder, int level)
{
    int window = encoder->kind == ENCODE_GZIP ? GZIP_WINDOW : DEFLATE_WINDOW;
    return deflateInit2(&encoder->zlib, level, Z_DEFLATED, window, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK;
}

/* One call of the library: from the front of *in to out[0...*len), *len being its room and then what is
 * used. */
static bool
zlib_step(struct encoder *encoder, struct slice *in, bool finish, char *out, size_t *len)
{
    z_stream *zlib = &encoder->zlib;
    size_t take = in->len < STEP_BYTES_MAX ? in->len : STEP_BYTES_MAX;
    size_t room = *len < STEP_BYTES_MAX ? *len : STEP_BYTES_MAX;
    int flush = take < in->len ? Z_NO_FLUSH : finish ? Z_FINISH : Z_SYNC_FLUSH;
    zlib->next_in = (Bytef *)(in->len > 0 ? in->at : "");
    zlib->avail_in = (uInt)take;
    zlib->next_out = (Bytef *)out;
    zlib->avail_out = (uInt)room;
    int result = deflate(zlib, flush);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return false;
    take -= zlib->avail_in;
    *in = (struct slice){in->at + take, in->len - take};
    *len = room - zlib->avail_out;
    encoder->finished = result == Z_STREAM_END;
    encoder->dirty = !encoder->finished && (zlib->avail_out == 0 || flush == Z_NO_FLUSH);
    return true;
}

static bool
zstd_step(struct encoder *encoder, struct slice *in, bool finish, char *out, size_t *len)
{
    ZSTD_inBuffer from = {in->len > 0 ? in->at : "", in->len, 0};
    ZSTD_outBuffer to = {out, *len, 0};
    size_t left = ZSTD_compressStream2(encoder->zstd, &to, &from, finish ? ZSTD_e_end : ZSTD_e_flush);
    if (ZSTD_isError(left)) return false;
    *in = (struct slice){in->at + from.pos, in->len - from.pos};
    *len = to.pos;
    encoder->dirty = left != 0;
    encoder->finished = finish && left == 0 && in->len == 0;
    return true;
}

static void
give_held(struct encoder *encoder, char *out, size_t cap, size_t *len)
{
    size_t left = encoder->held_len - encoder->held_at, n = left < cap - *len ? left : cap - *len;
    if (n > 0) memcpy(out + *len, encoder->held + encoder->held_at, n);
    *len += n;
    encoder->held_at += n;
    if (encoder->held_at == encoder->held_len) encoder->held_at = encoder->held_len = 0;
}

struct encoder *
encoder_new(enum encode_kind kind, int level)
{
    struct encoder *encoder = calloc(1, sizeof(*encoder));
    if (encoder == NULL) return NULL;
    encoder->kind = kind;
    if (level < 1) level = 1;
    if (level > 9) level = 9;
    if (kind == ENCODE_ZSTD ? zstd_init(encoder, level) : zlib_init(encoder, level)) return encoder;
    encoder_free(encoder);
    return NULL;
}

void
encoder_free(struct encoder *encoder)
{
    if (encoder == NULL) return;
    if (encoder->kind == ENCODE_ZSTD) {
        ZSTD_freeCCtx(encoder->zstd); /* NULL is fine */
    } else {
        (void)deflateEnd(&encoder->zlib); /* says only whether the stream was whole */
    }
    free(encoder);
}

bool
encoder_step(
    struct encoder *encoder, struct slice *in, bool finish, char *out, size_t cap, size_t *len, bool *more)
{
    if (in->len > 0 && encoder->finished) return false;
    give_held(encoder, out, cap, len);
    while (*len < cap && (in->len > 0 || encoder->dirty || (finish && !encoder->finished))) {
        bool direct = cap - *len >= HELD_BYTES;
        size_t made = direct ? cap - *len : HELD_BYTES;
        char *to = direct ? out + *len : encoder->held;
        bool fine = encoder->kind == ENCODE_ZSTD ? zstd_step(encoder, in, finish, to, &made)
                                                 : zlib_step(encoder, in, finish, to, &made);
        if (!fine) return false;
        if (direct) {
            *len += made;
            continue;
        }
        encoder->held_len = made;
        give_held(encoder, out, cap, len);
    }
    *more = encoder->held_len > 0 || encoder->dirty || (finish && !encoder->finished);
    return true;
}
