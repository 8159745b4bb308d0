/* sinklab quantize: a checkpoint with weights and activations rounded as a scheme says. */
#include "base/err.h"
#include "cli/args.h"
#include "cli/quantize_report.h"
#include "cli/verbs.h"
#include "eval/windows.h"

#include <math.h>
#include <stdio.h>

static int print_list(void) {
    char text[SL_SCHEME_HELP];
    for (int i = 0; i < sl_schemes(); i++) {
        sl_scheme_describe(sl_scheme_at(i), text);
        printf("%-20s  %s\n", sl_scheme_at(i)->name, text);
    }
    return 0;
}

int sl_verb_quantize(int argc, char **argv) {
    sl_quantize_options q = {.smooth = -1, .percentile = NAN, .calibration = 64, .windows = 128, .skip = SL_SPREAD};
    bool list = false, json = false;
    const char *bos = NULL;
    int64_t seed = 1;
    const sl_flag flags[] = {
        SL_FLAG_STR("scheme", "LIST", &q.scheme,
                    "how weights and activations are rounded: a scheme, or several with commas between, one after the "
                    "other"),
        SL_FLAG_BOOL("list", &list, "print the schemes, and do nothing else"),
        SL_FLAG_BOOL("grid", &q.grid, "all schemes, one after the other"),
        SL_FLAG_REAL("smooth", "ALPHA", &q.smooth, 0, 1, "SmoothQuant first (arXiv 2211.10438)"),
        SL_FLAG_BOOL("migrate", &q.migrate, "gamma migration first (arXiv 2209.13325)"),
        SL_FLAG_BOOL("rotate", &q.rotate, "randomised Hadamard rotation first (QuaRot, arXiv 2404.00456)"),
        SL_FLAG_INT("rotation-seed", "N", &seed, 0, 9007199254740991, "of the rotation's signs; default 1"),
        SL_FLAG_INT("calibration", "N", &q.calibration, 1, 1e9,
                    "windows of the training text for static scales and SmoothQuant; default 64"),
        SL_FLAG_STR(
            "clip", "HOW", &q.clip,
            "range of static scales: absmax (default), percentile, mse (least squared error), token (token-wise "
            "clipping, arXiv 2209.13325)"),
        SL_FLAG_REAL("percentile", "P", &q.percentile, 50, 100, "of --clip percentile; default 99.9"),
        SL_FLAG_BOOL("head", &q.head, "round the head and its input too"),
        SL_FLAG_BOOL("embedding", &q.embedding, "round the embeddings too"),
        SL_FLAG_BOOL("kv", &q.kv, "round keys and values too, as they would be cached"),
        SL_FLAG_STR("keep", "LIST", &q.keep,
                    "leave these kinds of layers in fp32: names from the list above with commas between, or "
                    "all"),
        SL_FLAG_BOOL("real", &q.real, "multiply integers on the int8 unit: the same bits, faster"),
        SL_FLAG_STR(
            "export", "DIR", &q.export_to,
            "write the quantised model to this new folder (src/quant/export.h); `sinklab quantize DIR` evaluates it"),
        SL_FLAG_STR("corpus", "C", &q.corpus, "calibrate and evaluate on this corpus; default: the one trained on"),
        SL_FLAG_BOS(&bos),
        SL_FLAG_INT("windows", "N", &q.windows, 0, 1e12,
                    "validation windows; 0 = all; default 128"),
        SL_FLAG_SKIP(&q.skip),
        SL_FLAG_BOOL("each-window", &q.each_window, "with --json: also \"window_loss\", the loss of each window"),
        SL_FLAG_BOOL("json", &json, "print one JSON object"),
        SL_FLAG_END};
    char about[2048] =
        "Evaluates a checkpoint with weights and activations rounded to few bits: every linear layer of the blocks "
        "reads rounded inputs and multiplies rounded weights, as hardware for these formats would; norms, their "
        "gates, attention, routers, the gate of shared experts and the residual stream stay fp32. Loss, perplexity and "
        "bits per byte come with their change from fp32 and its 95 % interval over validation windows (paired), and "
        "the error of what is rounded by layer and class of tensor. Calibration takes windows of the training text "
        "only.\n"
        "A folder that --export wrote is evaluated as it is, without a scheme.";
    sl_quantize_keep_help(about, sizeof about);
    const sl_verb_spec spec = {
        .verb = "quantize",
        .operands = "CHECKPOINT --scheme LIST | --grid [key=value ...]",
        .about = about,
        .flags = flags,
        .min_positionals = 0,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab quantize --list\n"
                    "sinklab quantize runs/baseline --scheme w8a8-channel-static\n"
                    "sinklab quantize runs/gated --scheme nvfp4-token --smooth 0.5 --json\n"
                    "sinklab quantize runs/gated --grid --rotate --calibration 128\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (list)
        return print_list();
    if (args.positionals == 0)
        return sl_fail_usage("quantize: an argument is missing: sinklab quantize %s", spec.operands);
    q.rotation_seed = (uint64_t)seed;
    sl_open_options keys = sl_args_open(&args, bos);
    sl_quant_report t;
    rc = sl_quantize(args.positional[0], &q, &keys, &t) || sl_quant_report_print(&t, json) ? -1 : 0;
    sl_quant_report_free(&t);
    return rc;
}
