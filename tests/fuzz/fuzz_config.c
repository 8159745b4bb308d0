/* YAML configuration files; what is accepted must survive a dump. */
#include "config/config.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static void dump_and_read_back(const sl_config *c) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f || sl_config_dump(c, f) != 0 || fclose(f) != 0)
        abort();
    sl_config back;
    sl_config_defaults(&back);
    if (sl_config_parse(&back, text, n, "dump") != 0 || memcmp(&back, c, sizeof back) != 0)
        abort();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_config c;
    sl_config_defaults(&c);
    if (sl_config_parse(&c, (const char *)data, n, "fuzz") == 0) {
        dump_and_read_back(&c);
        sl_config_check(&c);
        sl_config_hash(&c);
    }
    char text[4096]; /* the same bytes as an override */
    if (n < sizeof text) {
        memcpy(text, data, n);
        text[n] = '\0';
        sl_config_override(&c, text);
    }
    return 0;
}
