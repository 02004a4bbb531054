/* core/base/compiler.h: the few compiler words that every room uses. */
#ifndef FLUXGATE_BASE_COMPILER_H
#define FLUXGATE_BASE_COMPILER_H

#define MUST_CHECK        __attribute__((warn_unused_result))
#define LIKELY(x)         __builtin_expect(!!(x), 1)
#define UNLIKELY(x)       __builtin_expect(!!(x), 0)
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define COLD              __attribute__((cold))

#endif
