#include "cli/probe_tokens.h"

#include <stdio.h>
#include <stdlib.h>

void sl_top_tokens_print(const json_t *o) {
    printf("\ntokens of largest norm in layer %lld, where the mean norm without token 0 is %.4g:\n"
           "      norm window position  token  text\n",
           (long long)json_integer_value(json_object_get(o, "layer")),
           json_number_value(json_object_get(o, "mean_norm")));
    static const char *const lists[] = {"first", "others"};
    for (int kind = 0; kind < 2; kind++) {
        const json_t *row;
        size_t i;
        json_array_foreach(json_object_get(o, lists[kind]), i, row) {
            char *text = json_dumps(json_object_get(row, "text"), JSON_ENCODE_ANY);
            printf("%10.4g %6lld %8lld %6lld  %s\n", json_number_value(json_object_get(row, "norm")),
                   (long long)json_integer_value(json_object_get(row, "window")),
                   (long long)json_integer_value(json_object_get(row, "position")),
                   (long long)json_integer_value(json_object_get(row, "token")), text ? text : "");
            free(text);
        }
    }
}
