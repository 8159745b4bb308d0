/* cli/args: flags, operands, overrides, and one message a mistake. */
#include "cli/args.h"
#include "base/err.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

static bool resume;
static const char *out;
static int64_t count;
static double heat;
static sl_args args;

/* Parses words ended by NULL as a verb with one operand at least and two at most. */
static int parse(bool overrides, const char *const *words) {
    char *argv[16] = {strdup("verb")};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    resume = false, out = "default", count = 3, heat = 0.5;
    const sl_flag flags[] = {SL_FLAG_BOOL("resume", &resume, "go on"),
                             SL_FLAG_STR("out", "DIR", &out, "folder"),
                             SL_FLAG_INT("count", "N", &count, 1, 10, "how many"),
                             SL_FLAG_REAL("heat", "T", &heat, 0, 2, "how hot"), SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "verb",
                               .operands = "FILE [FILE]",
                               .about = "About.",
                               .flags = flags,
                               .min_positionals = 1,
                               .max_positionals = 2,
                               .overrides = overrides};
    int rc = sl_args_parse(&spec, argc, argv, &args);
    free(argv[0]);
    return rc;
}
#define PARSE(overrides, ...) parse(overrides, (const char *const[]){__VA_ARGS__, NULL})

START_TEST(defaults_stay) {
    ck_assert_int_eq(PARSE(true, "a"), 0);
    ck_assert(!resume && count == 3 && heat == 0.5);
    ck_assert_str_eq(out, "default");
    ck_assert_int_eq(args.positionals, 1);
    ck_assert_int_eq(args.overrides, 0);
}
END_TEST

START_TEST(all_kinds) {
    ck_assert_int_eq(
        PARSE(true, "--out", "d", "a", "--resume", "--count=7", "x.y=1", "--heat", "1e-1", "-"), 0);
    ck_assert(resume && count == 7 && heat == 0.1);
    ck_assert_str_eq(out, "d");
    ck_assert_int_eq(args.positionals, 2);
    ck_assert_str_eq(args.positional[0], "a");
    ck_assert_str_eq(args.positional[1], "-");
    ck_assert_int_eq(args.overrides, 1);
    ck_assert_str_eq(args.override[0], "x.y=1");
}
END_TEST

START_TEST(last_one_wins) {
    ck_assert_int_eq(PARSE(true, "a", "--count", "1", "--count", "2"), 0);
    ck_assert_int_eq(count, 2);
}
END_TEST

START_TEST(paths_with_equals_are_operands) {
    ck_assert_int_eq(PARSE(true, "./a=b", "c/d=e"), 0);
    ck_assert_int_eq(args.positionals, 2);
    ck_assert_int_eq(PARSE(true, "--", "a=b", "--out"), 0);
    ck_assert_int_eq(args.positionals, 2);
    ck_assert_str_eq(args.positional[1], "--out");
}
END_TEST

START_TEST(value_may_start_with_a_dash) {
    ck_assert_int_eq(PARSE(true, "a", "--out", "-"), 0);
    ck_assert_str_eq(out, "-");
    ck_assert_int_eq(PARSE(true, "a", "--out=--x"), 0);
    ck_assert_str_eq(out, "--x");
}
END_TEST

static const struct {
    const char *words[4], *message;
} mistakes[] = {
    {{"a", "--rezume"}, "verb: unknown flag --rezume; did you mean --resume?"},
    {{"a", "--zebra"}, "verb: unknown flag --zebra; see `sinklab verb --help`"},
    {{"a", "--"}, NULL},
    {{"a", "-r"},
     "verb: unknown flag \"-r\"; flags start with two dashes, see `sinklab verb --help`"},
    {{"a", "--resume=1"}, "verb: --resume takes no value"},
    {{"a", "--out"}, "verb: --out needs a value: --out DIR"},
    {{"a", "--out", "--resume"}, "verb: --out needs a value: --out DIR"},
    {{"a", "--out="}, "verb: --out needs a value: --out DIR"},
    {{"a", "--count", "x"}, "verb: --count takes a whole number from 1 to 10, not \"x\""},
    {{"a", "--count", "11"}, "verb: --count takes a whole number from 1 to 10, not \"11\""},
    {{"a", "--count", "1.5"}, "verb: --count takes a whole number from 1 to 10, not \"1.5\""},
    {{"a", "--heat", "-1"}, "verb: --heat takes a number from 0 to 2, not \"-1\""},
    {{"a", "--heat", "nan"}, "verb: --heat takes a number from 0 to 2, not \"nan\""},
    {{"--resume"}, "verb: an argument is missing: sinklab verb FILE [FILE]"},
    {{"a", "b", "c"}, "verb: one argument too many: \"c\"; see `sinklab verb --help`"},
    {{"a", "k=v"}, "verb: takes no key=value, found \"k=v\"; see `sinklab verb --help`"},
    {{"a", "--x\ny"}, "verb: unknown flag --x\\x0ay; see `sinklab verb --help`"},
};

START_TEST(messages) {
    int rc = parse(false, mistakes[_i].words);
    if (!mistakes[_i].message) {
        ck_assert_int_eq(rc, 0);
        return;
    }
    ck_assert_int_eq(rc, -1);
    ck_assert_str_eq(sl_error(), mistakes[_i].message);
    ck_assert_int_eq(sl_error_exit_code(), SL_EXIT_USAGE);
}
END_TEST

START_TEST(overrides_reach_the_configuration) {
    sl_config c;
    sl_config_defaults(&c);
    ck_assert_int_eq(PARSE(true, "a", "model.dim=64", "model.dim=128"), 0);
    ck_assert_int_eq(sl_args_override(&args, &c), 0);
    ck_assert_int_eq(c.model_dim, 128);
    ck_assert_int_eq(PARSE(true, "a", "model.dim=0"), 0);
    ck_assert_int_eq(sl_args_override(&args, &c), -1);
}
END_TEST

int main(void) {
    Suite *s = suite_create("args");
    TCase *t = tcase_create("args");
    tcase_add_test(t, defaults_stay);
    tcase_add_test(t, all_kinds);
    tcase_add_test(t, last_one_wins);
    tcase_add_test(t, paths_with_equals_are_operands);
    tcase_add_test(t, value_may_start_with_a_dash);
    tcase_add_loop_test(t, messages, 0, sizeof mistakes / sizeof *mistakes);
    tcase_add_test(t, overrides_reach_the_configuration);
    suite_add_tcase(s, t);
    return run_suite(s);
}
