#include "io/tfevents.h"

#include <string.h>

/* Wire types of protobuf, in the low three bits of a field's key. */
enum { VARINT = 0, I64 = 1, LEN = 2, I32 = 5 };

/* A message under construction: room for the longest, a scalar's Event. */
typedef struct {
    unsigned char p[SL_TFEVENTS_TAG + 64];
    size_t n;
} message;

uint32_t sl_crc32c(const void *p, size_t n) {
    const unsigned char *byte = p;
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        c ^= byte[i];
        for (int bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? 0x82f63b78 : 0); /* the polynomial, low bit first */
    }
    return ~c;
}

static void put_le(message *m, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++)
        m->p[m->n++] = (unsigned char)(x >> 8 * i);
}

static void put_varint(message *m, uint64_t x) {
    for (; x > 127; x >>= 7)
        m->p[m->n++] = (unsigned char)(x | 128);
    m->p[m->n++] = (unsigned char)x;
}

static void put_key(message *m, unsigned field, unsigned type) { put_varint(m, field << 3 | type); }

static void put_bytes(message *m, unsigned field, const void *p, size_t n) {
    put_key(m, field, LEN);
    put_varint(m, n);
    memcpy(m->p + m->n, p, n);
    m->n += n;
}

static void put_double(message *m, unsigned field, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(m, field, I64);
    put_le(m, bits, 8);
}

static void put_float(message *m, unsigned field, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(m, field, I32);
    put_le(m, bits, 4);
}

static void put_integer(message *m, unsigned field, int64_t x) {
    put_key(m, field, VARINT);
    put_varint(m, (uint64_t)x);
}

static uint32_t masked_crc(const message *m) {
    uint32_t c = sl_crc32c(m->p, m->n);
    return (c >> 15 | c << 17) + 0xa282ead8;
}

static int write_record(FILE *f, const message *event) {
    message head = {.n = 0}, tail = {.n = 0};
    put_le(&head, event->n, 8);
    put_le(&head, masked_crc(&head), 4);
    put_le(&tail, masked_crc(event), 4);
    return fwrite(head.p, 1, head.n, f) == head.n && fwrite(event->p, 1, event->n, f) == event->n &&
                   fwrite(tail.p, 1, tail.n, f) == tail.n
               ? 0
               : -1;
}

int sl_tfevents_begin(FILE *f, double wall_time, int64_t step) {
    static const char version[] = "brain.Event:2";
    message first = {.n = 0}, start = {.n = 0}, session = {.n = 0};
    put_double(&first, 1, wall_time);
    put_bytes(&first, 3, version, sizeof version - 1);
    put_integer(&session, 1, 1);
    put_double(&start, 1, wall_time);
    put_integer(&start, 2, step);
    put_bytes(&start, 7, session.p, session.n);
    return write_record(f, &first) || write_record(f, &start) ? -1 : 0;
}

int sl_tfevents_scalar(FILE *f, double wall_time, int64_t step, const char *tag, float value) {
    message event = {.n = 0}, summary = {.n = 0}, one = {.n = 0};
    put_bytes(&one, 1, tag, strnlen(tag, SL_TFEVENTS_TAG));
    put_float(&one, 2, value);
    put_bytes(&summary, 1, one.p, one.n);
    put_double(&event, 1, wall_time);
    put_integer(&event, 2, step);
    put_bytes(&event, 5, summary.p, summary.n);
    return write_record(f, &event);
}
