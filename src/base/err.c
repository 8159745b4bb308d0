#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[2048];
static _Thread_local int exit_code = SL_EXIT_OK;

static int fail(int code, const char *fmt, va_list ap) {
    vsnprintf(message, sizeof message, fmt, ap);
    exit_code = code;
    return -1;
}

int sl_fail(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fail(SL_EXIT_FAILED, fmt, ap);
    va_end(ap);
    return -1;
}

int sl_fail_usage(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fail(SL_EXIT_USAGE, fmt, ap);
    va_end(ap);
    return -1;
}

int sl_fail_errno(const char *what, const char *path) {
    return sl_fail("%s %s: %s", what, path, strerror(errno));
}

int sl_fail_prefix(const char *fmt, ...) {
    char prefix[1024], old[sizeof message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    memcpy(old, message, sizeof old);
    int code = exit_code ? exit_code : SL_EXIT_FAILED;
    snprintf(message, sizeof message, "%.900s: %.1100s", prefix, old);
    exit_code = code;
    return -1;
}

const char *sl_error(void) { return message; }
int sl_error_exit_code(void) { return exit_code; }
