#include "base/stop.h"

#include "base/err.h"

#include <string.h>

static const char message[] = "interrupted";
static sl_stop_fn *asked;
static void *context;

void sl_stop_when(sl_stop_fn *stop, void *ctx) {
    asked = stop;
    context = ctx;
}

bool sl_stop_asked(void) {
    if (!asked || !asked(context))
        return false;
    sl_fail("%s", message);
    return true;
}

bool sl_stop_failed(void) { return strcmp(sl_error(), message) == 0; }
