#include "cli/verbs.h"

const sl_verb sl_verbs[] = {
    {"train", "train a model, measuring its sinks on the way", sl_verb_train},
    {"watch", "a run while it trains: loss, M2, largest activation", sl_verb_watch},
    {"report", "a page about runs", sl_verb_report},
    {"eval", "loss and bits per byte of a checkpoint", sl_verb_eval},
    {"generate", "write text with a checkpoint", sl_verb_generate},
    {"probe", "measure the sinks and outliers of a checkpoint", sl_verb_probe},
    {"quantize", "a checkpoint with weights and activations rounded to few bits", sl_verb_quantize},
    {"export", "a checkpoint as a file of transformers' or llama.cpp's", sl_verb_export},
    {"logits", "logits of a checkpoint for given tokens", sl_verb_logits},
    {"tokenize", "turn text files into a token bin, and back", sl_verb_tokenize},
    {"bench", "training speed, and where the time goes", sl_verb_bench},
    {"models", "pre-trained models that a package registry carries", sl_verb_models},
    {"doctor", "what this machine offers, measures, and what would make it slow", sl_verb_doctor},
    {"config", "list the configuration keys, check a file, print what is in force", sl_verb_config},
    {"new-study", "a folder with a study to begin with", sl_verb_new_study},
    {"completion", "completion of command lines for bash, zsh or fish", sl_verb_completion},
    {"man", "the manual page", sl_verb_man},
    {NULL, NULL, NULL}};
