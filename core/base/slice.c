#include "core/base/slice.h"

#include <stdlib.h>

char *
slice_dup(struct slice s)
{
    char *copy = malloc(s.len + 1);
    if (copy == NULL) return NULL;
    if (s.len > 0) memcpy(copy, s.at, s.len);
    copy[s.len] = '\0';
    return copy;
}
