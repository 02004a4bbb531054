#include "core/http/reason.h"

struct reason_row {
    const char *word;
    int status;
    const char *sentence;
};

#define X(name, word, status, text) [REASON_##name] = {word, status, text},
static const struct reason_row rows[REASON_COUNT] = {REASONS(X)};
#undef X

static const struct reason_row *
reason_row(enum reason reason)
{
    return &rows[(unsigned)reason < REASON_COUNT ? reason : REASON_NONE];
}

const char *
reason_word(enum reason reason)
{
    return reason_row(reason)->word;
}

int
reason_status(enum reason reason)
{
    return reason_row(reason)->status;
}

const char *
reason_sentence(enum reason reason)
{
    return reason_row(reason)->sentence;
}
