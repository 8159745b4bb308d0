/* sinklab export: a model as a file that others open. */
#include "base/err.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/export.h"
#include "cli/args.h"
#include "session/load.h"
#include "cli/verbs.h"
#include "families/foreign.h"

#include <string.h>
#include <sys/stat.h>

typedef struct {
    const char *format, *out, *type, *bos;
} plan;

static int check_flags(const plan *p) {
    struct stat st;
    bool gguf = p->format && !strcmp(p->format, "gguf");
    if (!p->format || !p->out)
        return sl_fail_usage("export needs --format hf or gguf, and --out PATH");
    if (!gguf && strcmp(p->format, "hf") != 0)
        return sl_fail_usage("export: --format takes hf or gguf, not \"%.60s\"", p->format);
    if (p->type && !gguf)
        return sl_fail_usage("export: --type goes with --format gguf; a folder has fp32");
    if (p->bos && !gguf)
        return sl_fail_usage("export: --bos goes with --format gguf; a folder has the tokenizer's file as it is");
    if (p->type && !sl_export_type(p->type))
        return sl_fail_usage("export: --type takes f32, f16 or bf16, not \"%.60s\"", p->type);
    return lstat(p->out, &st) ? 0 : sl_fail("--out %s: there is such a file or folder already; give a new one", p->out);
}

/* Of a model of others the context that its file claims; our windows of it are short. */
static int set_context(sl_config *c, const char *dir) {
    if (!sl_checkpoint_foreign(dir))
        return 0;
    sl_foreign *f = sl_foreign_open(dir);
    int rc = f ? sl_foreign_context(f, &c->model_seq) : -1;
    sl_foreign_close(f);
    return rc;
}

static int write_model(const plan *p, const sl_config *c, char dir[SL_DIR_CHARS], int32_t vocab) {
    bool gguf = !strcmp(p->format, "gguf");
    sl_model *m = sl_model_create(c, vocab, 1, 1, 0);
    if (!m || sl_load_weights(m, dir)) {
        sl_model_free(m);
        return -1;
    }
    sl_config built = *sl_model_config(m);
    sl_export e = {.config = &built, .params = sl_model_params(m), .vocab = vocab, .bos = -1};
    int rc = set_context(&built, dir) || (gguf && sl_load_bos_id(c, &e.bos)) ? -1 : 0;
    if (rc == 0)
        rc = gguf ? sl_export_gguf(&e, p->type ? p->type : "f32", p->out) : sl_export_hf(&e, p->out);
    sl_model_free(m);
    return rc;
}

int sl_verb_export(int argc, char **argv) {
    plan p = {.format = NULL};
    const sl_flag flags[] = {
        SL_FLAG_STR("format", "NAME", &p.format, "hf: a folder that transformers opens; gguf: a file for llama.cpp"),
        SL_FLAG_STR("out", "PATH", &p.out, "the folder or file to write, which must be new"),
        SL_FLAG_STR("type", "NAME", &p.type, "gguf: the numbers of matrices, f32 (default), f16 or bf16, rounded to "
                                             "the nearest"),
        SL_FLAG_BOS(&p.bos),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "export",
        .operands = "CHECKPOINT --format hf|gguf --out PATH [key=value ...]",
        .about = "Writes a model as transformers or llama.cpp open it: a plain Llama, Qwen3, Qwen3-Next or Mamba-2, be "
                 "it a run, a checkpoint, a Hugging Face folder or a GGUF file. Any other is refused, with the key "
                 "that makes it one.\n"
                 "A folder has fp32 weights and, where the tokenizer came from one, tokenizer.json. A GGUF has the "
                 "tokenizer: byte-level BPE, or bytes, as BPE without merges.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab export runs/base --format hf --out base-hf\n"
                    "sinklab export runs/base --format gguf --type bf16 --out base.gguf\n"};
    sl_args args;
    sl_config c;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (check_flags(&p) || sl_args_load(&args, p.bos, 1, &c, dir, &vocab) || sl_export_check(&c, dir))
        return -1;
    return write_model(&p, &c, dir, vocab);
}
