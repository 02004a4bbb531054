/* core/script/heap.h: the memory of one lua_State, dropped whole: a mimalloc heap, or plain malloc with a
 * list where sanitizers and valgrind shall see each block (-DFLUXGATE_MIMALLOC=OFF). */
#ifndef FLUXGATE_SCRIPT_HEAP_H
#define FLUXGATE_SCRIPT_HEAP_H
#include <stddef.h>

#include "core/base/compiler.h"

struct heap;

MUST_CHECK
struct heap *heap_new(void);
/* As realloc(3); `block` is NULL or of this heap. */
MUST_CHECK
void *heap_realloc(struct heap *heap, void *block, size_t bytes);
void heap_give(struct heap *heap, void *block);
void heap_destroy(struct heap *heap); /* frees every block; NULL is fine */

#endif
