/* AMX's tiles in plain C, so that simd/amx/ is tested on machines without the unit: put in front of the source with
 * -include, it replaces the intrinsics. Semantics as in the Intel SDM (TDPBF16PS: even and odd products of a tile
 * are summed apart, in fp32, nearest even; TDPBUSD: exact, modulo 2^32). A use of a tile that the hardware would
 * refuse aborts. Flushing of subnormals is not modelled. */
#ifndef SL_TESTS_AMX_MODEL_H
#define SL_TESTS_AMX_MODEL_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig model_loadconfig
#define _tile_release model_release
#define _tile_zero model_zero
#define _tile_loadd model_loadd
#define _tile_stream_loadd model_loadd
#define _tile_stored model_stored
#define _tile_dpbf16ps model_dpbf16ps
#define _tile_dpbusd model_dpbusd

enum { MODEL_TILES = 8, MODEL_ROWS = 16, MODEL_COLSB = 64 };

static _Thread_local struct {
    int rows[MODEL_TILES], colsb[MODEL_TILES];
    unsigned char data[MODEL_TILES][MODEL_ROWS][MODEL_COLSB];
} model;

static inline void model_need(int ok) {
    if (!ok)
        abort(); /* #UD or #GP on the hardware */
}

static inline void model_release(void) { memset(&model, 0, sizeof model); }

static inline void model_loadconfig(const void *config) {
    const unsigned char *c = config;
    model_release();
    model_need(c[0] == 1 && c[1] == 0);
    for (int i = 2; i < 16; i++)
        model_need(c[i] == 0);
    for (int t = 0; t < 16; t++) {
        int colsb = c[16 + 2 * t] | c[17 + 2 * t] << 8, rows = c[48 + t];
        model_need(t < MODEL_TILES || (colsb == 0 && rows == 0));
        model_need(rows <= MODEL_ROWS && colsb <= MODEL_COLSB && (rows == 0) == (colsb == 0));
        if (t < MODEL_TILES) {
            model.rows[t] = rows;
            model.colsb[t] = colsb;
        }
    }
}

static inline void model_zero(int t) {
    model_need(model.rows[t] > 0);
    memset(model.data[t], 0, sizeof model.data[t]);
}

static inline void model_loadd(int t, const void *base, int64_t stride) {
    model_zero(t);
    for (int r = 0; r < model.rows[t]; r++)
        memcpy(model.data[t][r], (const char *)base + r * stride, (size_t)model.colsb[t]);
}

static inline void model_stored(int t, void *base, int64_t stride) {
    model_need(model.rows[t] > 0);
    for (int r = 0; r < model.rows[t]; r++)
        memcpy((char *)base + r * stride, model.data[t][r], (size_t)model.colsb[t]);
}

static inline float model_bf16(const unsigned char *p) {
    uint32_t u = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline void model_need_product(int c, int a, int b) {
    model_need(model.rows[c] > 0 && model.rows[a] > 0 && model.rows[b] > 0);
    model_need(model.rows[c] == model.rows[a] && model.colsb[c] == model.colsb[b] &&
               model.colsb[a] / 4 == model.rows[b]);
}

static inline void model_dpbusd(int c, int a, int b) {
    model_need_product(c, a, b);
    for (int m = 0; m < model.rows[c]; m++)
        for (int n = 0; n < model.colsb[c] / 4; n++) {
            uint32_t acc;
            memcpy(&acc, model.data[c][m] + 4 * n, sizeof acc);
            for (int k = 0; k < model.rows[b]; k++)
                for (int i = 0; i < 4; i++)
                    acc += (uint32_t)(model.data[a][m][4 * k + i] * (int8_t)model.data[b][k][4 * n + i]);
            memcpy(model.data[c][m] + 4 * n, &acc, sizeof acc);
        }
}

static inline void model_dpbf16ps(int c, int a, int b) {
    model_need_product(c, a, b);
    for (int m = 0; m < model.rows[c]; m++)
        for (int n = 0; n < model.colsb[c] / 4; n++) {
            float sum[2] = {0, 0}, acc;
            for (int k = 0; k < model.rows[b]; k++)
                for (int i = 0; i < 2; i++)
                    sum[i] += model_bf16(model.data[a][m] + 4 * k + 2 * i) *
                              model_bf16(model.data[b][k] + 4 * n + 2 * i);
            memcpy(&acc, model.data[c][m] + 4 * n, sizeof acc);
            acc += sum[0] + sum[1];
            memcpy(model.data[c][m] + 4 * n, &acc, sizeof acc);
        }
}

#endif
