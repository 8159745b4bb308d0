#include "data/bin.h"

#include "base/err.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bins are read in place");

enum { LLMC = 20240520, LLMC_VERSION = 1, LLAMA3 = 20240801, LLAMA3_VERSION = 7, EXTRA = 248 };

/* Files of the same family that hold something else. */
static const struct {
    int32_t magic;
    const char *what;
} others[] = {
    {20240522, "an llm.c evaluation file"},
    {20240328, "an llm.c tokenizer"},
    {20240326, "an llm.c model"},
    {20240327, "an llm.c debug state"},
    {278895051, "a modded-nanogpt shard"},
};

static bool named_bin(const char *name) {
    size_t n = strlen(name);
    return n > 4 && !strcmp(name + n - 4, ".bin");
}

static bool is_mark(int32_t magic) { return magic == LLMC || magic == LLAMA3; }

static int parse_header(sl_tokens *t, const int32_t *h, size_t n, const char *name) {
    int version = h[0] == LLMC ? LLMC_VERSION : LLAMA3_VERSION, width = h[0] == LLMC ? 2 : 4;
    if (n < SL_BIN_HEADER_BYTES)
        return sl_fail("%s: truncated: %zu bytes, less than the header of %d", name, n, SL_BIN_HEADER_BYTES);
    if (h[1] != version)
        return sl_fail("%s: version %d of the token bin %d, only %d is known", name, h[1], h[0], version);
    if (h[2] < 0)
        return sl_fail("%s: the header claims a negative number of tokens, %d", name, h[2]);
    uint64_t want = SL_BIN_HEADER_BYTES + (uint64_t)h[2] * (uint64_t)width;
    if (n != want)
        return sl_fail("%s: %s: the header claims %d tokens, which are %llu bytes, but the file has %zu", name,
                       n < want ? "truncated" : "too long", h[2], (unsigned long long)want, n);
    *t = (sl_tokens){(const char *)(const void *)h + SL_BIN_HEADER_BYTES, width, h[2]};
    return 0;
}

int sl_bin_parse(sl_tokens *t, const void *data, size_t n, const char *name) {
    *t = (sl_tokens){0};
    int32_t magic = 0;
    if (n >= sizeof magic)
        memcpy(&magic, data, sizeof magic);
    if (is_mark(magic)) {
        if (parse_header(t, data, n, name))
            return -1;
    } else {
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (magic == others[i].magic)
                return sl_fail("%s: is %s, not a token bin", name, others[i].what);
        if (!named_bin(name))
            return sl_fail("%s: not a token bin: no llm.c header; bare uint16 tokens must be named *.bin", name);
        if (n % 2)
            return sl_fail("%s: %zu bytes, an odd number: neither an llm.c header nor bare uint16 tokens", name, n);
        *t = (sl_tokens){data, 2, (int64_t)(n / 2)};
    }
    if (!t->count)
        return sl_fail("%s: holds no tokens", name);
    return 0;
}

int sl_bin_open(sl_bin *b, const char *path) {
    *b = (sl_bin){0};
    if (sl_map_open(&b->map, path))
        return -1;
    if (sl_bin_parse(&b->tokens, b->map.p, b->map.n, path)) {
        sl_bin_close(b);
        return -1;
    }
    return 0;
}

void sl_bin_close(sl_bin *b) {
    sl_map_close(&b->map);
    b->tokens = (sl_tokens){0};
}

bool sl_bin_looks_like(const char *path) {
    int32_t magic = 0;
    if (named_bin(path))
        return access(path, R_OK) == 0;
    FILE *f = sl_open_regular(path);
    bool marked = f && fread(&magic, sizeof magic, 1, f) == 1 && is_mark(magic);
    if (f)
        fclose(f);
    return marked;
}

int64_t sl_tokens_largest(const sl_tokens *t, int64_t *at) {
    int64_t largest = -1;
    *at = 0;
    for (int64_t i = 0; i < t->count; i++) {
        int64_t id = t->width == 2 ? ((const uint16_t *)t->id)[i] : ((const uint32_t *)t->id)[i];
        if (id > largest) {
            largest = id;
            *at = i;
        }
    }
    return largest;
}

static int put_all(sl_writer *w, const sl_tokens *t, const uint64_t extra[4]) {
    int32_t header[SL_BIN_HEADER_INTS] = {t->width == 2 ? LLMC : LLAMA3,
                                          t->width == 2 ? LLMC_VERSION : LLAMA3_VERSION, (int32_t)t->count};
    if (extra)
        memcpy(header + EXTRA, extra, 4 * sizeof *extra);
    return sl_writer_put(w, header, sizeof header) || sl_writer_put(w, t->id, (size_t)t->count * (size_t)t->width)
               ? -1
               : 0;
}

static int write_file(const char *path, const sl_tokens *t, const uint64_t extra[4]) {
    sl_writer w;
    return sl_writer_open(&w, path) || put_all(&w, t, extra) ? -1 : sl_writer_finish(&w, NULL);
}

int sl_bin_write(const char *path, const sl_tokens *t, const uint64_t extra[4]) {
    if (t->count > INT32_MAX)
        return sl_fail("%s: %lld tokens, more than the %d that a bin can hold; write several", path,
                       (long long)t->count, INT32_MAX);
    return write_file(path, t, extra);
}

bool sl_bin_extra(const sl_bin *b, uint64_t extra[4]) {
    if (b->map.n < SL_BIN_HEADER_BYTES || b->tokens.id != b->map.p + SL_BIN_HEADER_BYTES)
        return false;
    memcpy(extra, b->map.p + EXTRA * sizeof(int32_t), 4 * sizeof *extra);
    return true;
}
