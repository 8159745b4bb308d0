/* A folder as transformers opens it. */
#include "checkpoint/export.h"

#include "base/err.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/internal.h"
#include "families/foreign.h"
#include "io/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sl_export_check(const sl_config *c, const char *name) {
    const char *key = sl_hf_export_obstacle(c);
    return key ? sl_fail_usage("%s: %s stands in the way: only what is plain Llama, Qwen3, Qwen3-Next or Mamba-2 "
                               "without it can be exported", name, key)
               : 0;
}

static int write_weights(const sl_export *e, const char *dir) {
    static const char *const key[] = {"format"}, *const value[] = {"pt"}; /* transformers wants it */
    const sl_params *p = e->params;
    char path[SL_PATH];
    float *values = NULL;
    sl_st_entry *entry = calloc((size_t)p->count + 1, sizeof *entry);
    if (!entry)
        return sl_fail("out of memory for the exported model");
    int n = sl_foreign_tensors(sl_hf_export_class(e->config), e->config, p, entry, &values);
    int rc = n < 0 || sl_path(path, "%s/model.safetensors", dir) || sl_st_write(path, entry, n, key, value, 1) ? -1 : 0;
    free(values);
    free(entry);
    return rc;
}

static int write_config(const sl_export *e, const char *dir) {
    char path[SL_PATH], *text = sl_hf_export_text(e->config, e->vocab);
    int rc = !text || sl_path(path, "%s/config.json", dir) || sl_write_file(path, text, strlen(text)) ? -1 : 0;
    free(text);
    return rc;
}

static int copy_tokenizer(const sl_export *e, const char *dir) {
    const char *spec = e->config->data_tokenizer;
    char path[SL_PATH];
    sl_map m;
    if (strncmp(spec, "bpe:", 4) != 0)
        return 0;
    if (sl_map_open(&m, spec + 4))
        return sl_fail_prefix("data.tokenizer");
    int rc = sl_path(path, "%s/tokenizer.json", dir) || sl_write_file(path, m.p, m.n) ? -1 : 0;
    sl_map_close(&m);
    return rc;
}

int sl_export_hf(const sl_export *e, const char *dir) {
    char beside[SL_PATH], up[SL_PATH];
    int n = (int)strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (sl_path(beside, "%.*s.tmp", n, dir) || sl_path(up, "%.*s/..", n, dir))
        return -1;
    if (sl_sys.mkdir(beside, 0777) < 0)
        return errno == EEXIST ? sl_fail("%s is in the way; move it away", beside)
                               : sl_fail_errno("cannot make folder", beside);
    int rc = write_weights(e, beside) || write_config(e, beside) || copy_tokenizer(e, beside) || sl_fsync_dir(beside)
                 ? -1
                 : 0;
    if (rc == 0 && sl_sys.rename(beside, dir) < 0)
        rc = sl_fail_errno("cannot make folder", dir);
    if (rc)
        sl_folder_remove(beside);
    return rc || sl_fsync_dir(up) ? -1 : 0;
}
