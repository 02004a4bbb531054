#include <sys/mman.h>

#include "core/proxy/proxy_internal.h"

enum { HUGE = 2 << 20, LINE = 64 };

/* Address space alone: pages come as they are touched. */
static const size_t slab_bytes = (size_t)KEEP_STREAMS * (sizeof(struct stream) + ARENA_STREAM + 2 * LINE) +
                                 (size_t)KEEP_SMALL * (BUF_SMALL + LINE);

#if defined(__SANITIZE_ADDRESS__)
static const bool is_on = false; /* each object by malloc, so that the sanitizer sees it */
#else
static const bool is_on = true;
#endif

static void
slab_open(struct slab *slab)
{
    char *start = mmap(
        NULL, slab_bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return;
    slab->start = start;
    slab->end = start + slab_bytes + HUGE;
    slab->at = (char *)(((uintptr_t)start + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    (void)madvise(slab->at, (size_t)(slab->end - slab->at), MADV_HUGEPAGE); /* small ones do as well */
}

void *
slab_take(struct slab *slab, size_t bytes)
{
    size_t whole = (bytes + LINE - 1) & ~(size_t)(LINE - 1);
    if (slab == NULL || !is_on) return NULL;
    if (slab->start == NULL) slab_open(slab);
    if ((size_t)(slab->end - slab->at) < whole) return NULL;
    void *memory = slab->at;
    slab->at += whole;
    return memory;
}

bool
slab_owns(const struct slab *slab, const void *memory)
{
    return slab != NULL && (uintptr_t)memory - (uintptr_t)slab->start < (uintptr_t)(slab->end - slab->start);
}

void
slab_fini(struct slab *slab)
{
    if (slab->start != NULL) munmap(slab->start, (size_t)(slab->end - slab->start));
    *slab = (struct slab){0};
}
