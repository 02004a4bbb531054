#include "core/script/heap.h"

#ifdef FLUXGATE_MIMALLOC
#include <mimalloc.h>

struct heap *
heap_new(void)
{
    return (struct heap *)mi_heap_new();
}

void *
heap_realloc(struct heap *heap, void *block, size_t bytes)
{
    return mi_heap_realloc((mi_heap_t *)heap, block, bytes);
}

void
heap_give(struct heap *heap, void *block)
{
    (void)heap;
    mi_free(block);
}

void
heap_destroy(struct heap *heap)
{
    if (heap != NULL) mi_heap_destroy((mi_heap_t *)heap);
}

#else
#include <stdint.h>
#include <stdlib.h>

struct block {
    struct block *prev, *next;
    _Alignas(16) char bytes[];
};

struct heap {
    struct block all; /* a ring */
};

struct heap *
heap_new(void)
{
    struct heap *heap = malloc(sizeof *heap);
    if (heap != NULL) heap->all.prev = heap->all.next = &heap->all;
    return heap;
}

static struct block *
block_of(void *bytes)
{
    return (struct block *)(void *)((char *)bytes - offsetof(struct block, bytes));
}

static void
take_out(struct block *block)
{
    block->prev->next = block->next;
    block->next->prev = block->prev;
}

static void
put_in(struct heap *heap, struct block *block)
{
    block->prev = &heap->all;
    block->next = heap->all.next;
    heap->all.next->prev = block;
    heap->all.next = block;
}

void *
heap_realloc(struct heap *heap, void *bytes, size_t size)
{
    struct block *old = bytes == NULL ? NULL : block_of(bytes);
    if (size > SIZE_MAX - sizeof *old) return NULL;
    if (old != NULL) take_out(old);
    struct block *moved = realloc(old, sizeof *moved + size);
    if (moved != NULL)
        put_in(heap, moved);
    else if (old != NULL)
        put_in(heap, old);
    return moved == NULL ? NULL : moved->bytes;
}

void
heap_give(struct heap *heap, void *bytes)
{
    (void)heap;
    if (bytes == NULL) return;
    take_out(block_of(bytes));
    free(block_of(bytes));
}

void
heap_destroy(struct heap *heap)
{
    if (heap == NULL) return;
    for (struct block *at = heap->all.next, *next; at != &heap->all; at = next) {
        next = at->next;
        free(at);
    }
    free(heap);
}
#endif
