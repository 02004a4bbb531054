/* core/config/bundle.h: one generation's files, as bytes: YAML, Lua sources, keys. While it is open it reads
 * the disk and keeps what it read; sealed it is one memfd that answers from memory alone, so that every
 * process builds from the same bytes whatever the files have become (DESIGN.md section 7). */
#ifndef FLUXGATE_CONFIG_BUNDLE_H
#define FLUXGATE_CONFIG_BUNDLE_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

struct bundle;

enum { BUNDLE_FILE_MAX = 16 << 20 }; /* one file; a longer one is refused */

/* An open bundle: bundle_read goes to the disk the first time a path is asked for. NULL: out of memory. */
MUST_CHECK
struct bundle *bundle_open(void);

/* A sealed one over `fd`, which the bundle then owns. NULL (errno EBADMSG) where it is not one of ours. */
MUST_CHECK
struct bundle *bundle_from_fd(int fd);
void bundle_free(struct bundle *bundle);

/* The bytes of `path` (absolute, or relative to the process's first directory; used as the key as it is),
 * NUL-terminated behind their end, borrowed until bundle_free. False with errno: ENOENT (also: not in a
 * sealed bundle; remembered, so that a search path answers alike later), EFBIG, EISDIR, or the system's own.
 */
MUST_CHECK
bool bundle_read(struct bundle *bundle, const char *path, struct slice *bytes);

/* Puts bytes that no file holds (a generated secret, an expanded environment). Replaces; copies. */
MUST_CHECK
bool bundle_put(struct bundle *bundle, const char *path, struct slice bytes);

/* Writes everything read so far into `fd` (a memfd with MFD_ALLOW_SEALING) and seals it. False with errno. */
MUST_CHECK
bool bundle_seal(struct bundle *bundle, int fd);

/* The first 16 hex digits of a hash over all content, and a NUL: what `fluxgate status` shows. */
void bundle_hash(const struct bundle *bundle, char out[17]);

/* Where lua/ and strategies/ of the product live: $FLUXGATE_SHARE, else beside the program in its source tree
 * (EXE/../../..), else the installed share directory. Borrowed, fixed for the process's life. */
const char *bundle_share_dir(void);

#endif
