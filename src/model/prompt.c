/* The prompt of a decoder: all its positions in one pass of a model of whole windows that shares the decoder's
 * parameters and ends before the head; the keys and values that it leaves go to the decoder's caches. */
#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "model/model_internal.h"
#include "ops/attention/attention.h"
#include "ops/mixer/mixer.h"
#include "ops/rows.h"
#include "program/exec.h"
#include "program/schedule.h"

#include <stdlib.h>
#include <string.h>

/* Caches are all that is left behind by positions where every mixer is attention and no feed-forward is shifted; a
 * device fills its own. */
static bool in_one_pass(const sl_model *m) {
    return !m->run && sl_mixer_first(&m->config, false) < 0 && !m->config.model_ffn_shift;
}

/* Keys and values of a layer, window by window, from rows [q heads | k kv_heads | v kv_heads]. */
static void fill_cache(const sl_model *m, const sl_model *pass, int layer, float *row) {
    const sl_op *op = sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_core);
    sl_buf qkv = sl_model_qkv_buffer(pass, layer);
    int64_t seq = pass->program.seq, q = m->config.model_heads * sl_config_head_dim(&m->config);
    for (int64_t r = 0; r < pass->program.batch * seq; r++)
        sl_cached_attention_store(op, &m->exec, r / seq, r % seq, sl_read_rows(&pass->exec, qkv, r, 1, row) + q);
}

static int run_pass(sl_model *m, sl_model *pass, const int32_t *tokens) {
    int64_t wide = pass->program.buffer[sl_model_qkv_buffer(pass, 0)].cols;
    float *row = sl_alloc((size_t)wide * sizeof *row, "the prompt");
    pass->exec.tokens = tokens;
    pass->exec.workers = sl_threads();
    int rc = row ? sl_schedule_forward(&pass->program, &pass->exec, NULL) : -1;
    for (int i = 0; rc == 0 && i < m->config.model_layers; i++)
        fill_cache(m, pass, i, row);
    sl_free(row);
    return rc;
}

static int prompt_in_one_pass(sl_model *m, const int32_t *tokens, int64_t n) {
    sl_model *pass = sl_model_compile_prompt(m, n);
    if (!pass)
        return -1;
    sl_tensor *own = pass->params.tensor;
    pass->params = m->params; /* the same table: it follows from the configuration */
    int rc = sl_exec_open(&pass->exec, &pass->program, &pass->params) || run_pass(m, pass, tokens) ? -1 : 0;
    pass->params = (sl_params){.tensor = own};
    sl_model_free(pass);
    return rc;
}

static int prompt_one_by_one(sl_model *m, const int32_t *tokens, int64_t n) {
    int64_t batch = m->program.batch;
    int32_t *token = malloc((size_t)batch * sizeof *token);
    int rc = token ? 0 : sl_fail("out of memory for the prompt");
    for (int64_t t = 0; rc == 0 && t < n; t++) {
        for (int64_t b = 0; b < batch; b++)
            token[b] = tokens[b * n + t];
        rc = sl_model_decode(m, token, t, NULL);
    }
    free(token);
    return rc;
}

int sl_model_prompt(sl_model *m, const int32_t *tokens, int64_t n) {
    if (!m)
        return sl_model_fail_null("sl_model_prompt");
    if (n < 1 || n > m->program.cache)
        return sl_fail("a prompt of %lld positions: a decoder of %lld takes 1 to so many", (long long)n,
                       (long long)m->program.cache);
    if (sl_model_check_pass(m, true, tokens, NULL, n))
        return -1;
    if (!in_one_pass(m))
        return prompt_one_by_one(m, tokens, n);
    if (prompt_in_one_pass(m, tokens, n))
        return -1;
    m->decoded = n;
    return 0;
}
