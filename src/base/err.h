/* Errors: every fallible function returns 0 (or a pointer) on success and -1 (or NULL) on failure,
 * after setting this thread's message through sl_fail(). A message is ONE line: what is wrong,
 * where (file:line or key), how to mend it. Only main() prints it and chooses the exit code. */
#ifndef SL_BASE_ERR_H
#define SL_BASE_ERR_H

#include "sinklab.h" /* sl_error() */

enum { SL_EXIT_OK = 0, SL_EXIT_FAILED = 1, SL_EXIT_USAGE = 2 };

/* Sets the message; returns -1 so that callers may `return sl_fail(...)`. Exit code 1. */
int sl_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for a mistake in what the user typed or wrote in a config. Exit code 2. */
int sl_fail_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "<what> <path>: <strerror(errno)>"; for a failed system call. Exit code 1. */
int sl_fail_errno(const char *what, const char *path);
/* Puts "<prefix>: " in front of the pending message (to add where it happened). Returns -1. */
int sl_fail_prefix(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

int sl_error_exit_code(void); /* SL_EXIT_* of the pending message */

#endif
