/* sinklab tokenize: text files to a token bin, and back. */
#include "base/err.h"
#include "cli/args.h"
#include "cli/verbs.h"
#include "data/token_array.h"
#include "io/file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *out;
    int files;
    int64_t bytes;
    const sl_tokenizer *tokenizer;
    const sl_tokens *tokens;
} summary;

static int print_summary(const summary *s, bool json) {
    double per_token = (double)s->bytes / (double)s->tokens->count;
    if (!json) {
        printf("%s: %lld tokens of %d bytes each from %lld bytes of text in %d file%s, %.3f bytes per token, "
               "vocabulary %d\n", s->out, (long long)s->tokens->count, s->tokens->width, (long long)s->bytes,
               s->files, s->files == 1 ? "" : "s", per_token, sl_tokenizer_vocab(s->tokenizer));
        return 0;
    }
    int32_t bos = sl_tokenizer_bos(s->tokenizer);
    json_t *o = json_pack("{s:s, s:i, s:I, s:I, s:f, s:i, s:o, s:i}", "out", s->out, "files", s->files, "bytes",
                          (json_int_t)s->bytes, "tokens", (json_int_t)s->tokens->count, "bytes_per_token", per_token,
                          "vocab", sl_tokenizer_vocab(s->tokenizer), "bos",
                          bos < 0 ? json_null() : json_integer(bos), "id_bytes", s->tokens->width);
    if (!o)
        return sl_fail("cannot print the result as JSON: %s is not UTF-8", s->out);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
    return 0;
}

/* Appends a file's tokens, a boundary before all but the first. */
static int encode_file(sl_token_array *a, const sl_tokenizer *t, const char *path, int64_t *bytes) {
    sl_map m;
    if (sl_map_open(&m, path))
        return -1;
    *bytes += (int64_t)m.n;
    int rc = m.n ? 0 : sl_fail("%s: the file is empty", path);
    if (!rc && a->tokens.count)
        rc = sl_tokenizer_bos(t) >= 0 ? sl_token_array_push(a, sl_tokenizer_bos(t))
                                      : sl_fail_usage("%s: the tokenizer has no BOS to stand before a further file; "
                                                      "give one file", path);
    if (!rc && sl_token_array_encode(a, t, (const char *)m.p, m.n))
        rc = sl_fail_prefix("%s", path);
    sl_map_close(&m);
    return rc;
}

static int encode(const sl_tokenizer *t, const sl_args *args, const char *out, bool json) {
    sl_token_array a = sl_token_array_make(t);
    int64_t bytes = 0;
    int rc = 0;
    for (int i = 0; !rc && i < args->positionals; i++)
        rc = encode_file(&a, t, args->positional[i], &bytes);
    if (!rc)
        rc = sl_bin_write(out, &a.tokens, NULL);
    if (!rc)
        rc = print_summary(&(summary){out, args->positionals, bytes, t, &a.tokens}, json);
    sl_token_array_free(&a);
    return rc;
}

/* The bytes of one token; a boundary is the line that encodes to it. */
static const char *piece(const sl_tokenizer *t, int32_t id, size_t *n) {
    if (id == sl_tokenizer_bos(t)) {
        *n = sizeof SL_DOCUMENT_LINE - 1;
        return SL_DOCUMENT_LINE;
    }
    return sl_tokenizer_piece(t, id, n);
}

/* The text of all tokens, malloc'ed. */
static char *text_of(const sl_tokenizer *t, const sl_tokens *tokens, const char *path, size_t *n) {
    *n = 0;
    size_t k;
    for (int64_t i = 0; i < tokens->count; i++) {
        if (!piece(t, sl_tokens_at(tokens, i), &k)) {
            sl_fail("%s: token %d at place %lld isn't in the vocabulary; give the tokenizer that made the bin", path,
                    sl_tokens_at(tokens, i), (long long)i);
            return NULL;
        }
        *n += k;
    }
    char *text = malloc(*n + 1), *to = text;
    if (!text) {
        sl_fail("out of memory: %zu bytes of text", *n);
        return NULL;
    }
    for (int64_t i = 0; i < tokens->count; i++) {
        const char *p = piece(t, sl_tokens_at(tokens, i), &k);
        memcpy(to, p, k);
        to += k;
    }
    return text;
}

static int decode(const sl_tokenizer *t, const char *path, const char *out) {
    sl_bin b;
    if (sl_bin_open(&b, path))
        return -1;
    size_t n;
    char *text = text_of(t, &b.tokens, path, &n);
    int rc = text ? 0 : -1;
    if (!rc && out) {
        rc = sl_write_file(out, text, n);
    } else if (!rc && fwrite(text, 1, n, stdout) != n) {
        rc = sl_fail_errno("cannot write", "the standard output");
    }
    free(text);
    sl_bin_close(&b);
    return rc;
}

int sl_verb_tokenize(int argc, char **argv) {
    const char *spec = "bytes", *out = NULL;
    bool back = false, json = false, literal = false;
    const sl_flag flags[] = {
        SL_FLAG_STR("tokenizer", "SPEC", &spec, "bytes (default), bpe:FILE with FILE a tokenizer.json, or gguf:FILE"),
        SL_FLAG_BOOL("literal", &literal, "special tokens that stand in a text, like <s>, are text"),
        SL_FLAG_STR("out", "FILE", &out, "the bin to write; with --decode the text, default standard output"),
        SL_FLAG_BOOL("decode", &back, "turn a token bin back into text"),
        SL_FLAG_BOOL("json", &json, "print the summary as a JSON object"),
        SL_FLAG_END};
    const sl_verb_spec verb = {
        .verb = "tokenize",
        .operands = "TEXT... --out FILE.bin",
        .about = "Writes the tokens of text files as an llm.c token bin: uint16 ids, or uint32 where the vocabulary "
                 "has more than 65536. A line that holds only <|endoftext|> becomes one boundary token, and so does "
                 "the place between two files.\n"
                 "With --decode: prints the text of one token bin.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = -1,
        .examples = "sinklab tokenize --tokenizer bpe:bpe4096.json train.txt --out web_train.bin\n"
                    "sinklab tokenize --tokenizer bpe:bpe4096.json --decode web_train.bin | head\n"};
    sl_args args;
    int rc = sl_args_parse(&verb, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (back && (args.positionals != 1 || json || literal))
        return sl_fail_usage("tokenize: --decode takes one bin, no --json and no --literal");
    if (!back && !out)
        return sl_fail_usage("tokenize: give the bin to write with --out FILE.bin");
    for (int i = 0; out && i < args.positionals; i++)
        if (sl_same_file(args.positional[i], out))
            return sl_fail_usage("tokenize: --out %s is the file that is read; give another", out);
    sl_tokenizer *t = sl_tokenizer_open(spec);
    if (!t)
        return -1;
    if (literal)
        sl_tokenizer_take_literally(t);
    rc = back ? decode(t, args.positional[0], out) : encode(t, &args, out, json);
    sl_tokenizer_close(t);
    return rc;
}
