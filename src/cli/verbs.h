/* The verbs of the command line; main.c has the table. argv[0] is the verb. Each returns 0, or -1
 * after sl_fail(). */
#ifndef SL_CLI_VERBS_H
#define SL_CLI_VERBS_H

int sl_verb_bench(int argc, char **argv);
int sl_verb_config(int argc, char **argv);
int sl_verb_doctor(int argc, char **argv);
int sl_verb_eval(int argc, char **argv);
int sl_verb_export(int argc, char **argv);
int sl_verb_generate(int argc, char **argv);
int sl_verb_logits(int argc, char **argv);
int sl_verb_models(int argc, char **argv);
int sl_verb_probe(int argc, char **argv);
int sl_verb_quantize(int argc, char **argv);
int sl_verb_tokenize(int argc, char **argv);
int sl_verb_train(int argc, char **argv);

#endif
