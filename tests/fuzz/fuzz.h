/* A fuzz target: feeds `n` bytes from outside to a parser. It must return whatever the bytes are; a
 * crash, a sanitizer report, a hang or an abort() is a finding. Always returns 0.
 * Built twice: with libFuzzer (meson option `fuzz`) and with replay.c as an ordinary test. */
#ifndef SL_TESTS_FUZZ_H
#define SL_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* For parsers that only open files: the bytes as a file, unlinked by sl_fuzz_file_end(). The path
 * is valid until then. Defined in file.c, linked into every target. */
const char *sl_fuzz_file(const uint8_t *data, size_t n);
void sl_fuzz_file_end(void);

/* A folder of this process, the same at each call, removed with the files in it at exit; *made: it was made by this
 * call. For parsers that open files beside each other. */
const char *sl_fuzz_folder(bool *made);
/* Writes n bytes to a new file in the place of what was there. */
void sl_fuzz_put(const char *path, const uint8_t *data, size_t n);

#endif
