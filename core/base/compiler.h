/* core/base/compiler.h: the few compiler words that every room uses. */
#ifndef FLUXGATE_BASE_COMPILER_H
#define FLUXGATE_BASE_COMPILER_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define LIKELY(x)  __builtin_expect(!!(x), 1)
/* Fetches the cache lines of [from, from + bytes) while something else runs, as a system call does. */
#define PREFETCH(from, bytes)                                                                                \
    do {                                                                                                     \
        for (size_t prefetch_ = 0; prefetch_ < (bytes); prefetch_ += 64)                                     \
            __builtin_prefetch((const char *)(from) + prefetch_, 1);                                         \
    } while (0)
#define UNLIKELY(x)       __builtin_expect(!!(x), 0)
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define COLD              __attribute__((cold))

#endif
