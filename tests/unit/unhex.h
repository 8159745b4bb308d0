/* Texts of golden files, which hold any bytes and so are written in hex. */
#ifndef SL_TESTS_UNHEX_H
#define SL_TESTS_UNHEX_H

#include <check.h>
#include <stdio.h>
#include <string.h>

/* The bytes to out, which has room for half of hex; how many. */
static inline size_t unhex(const char *hex, char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

#endif
