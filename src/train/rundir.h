/* The files of a run directory besides checkpoints: config.yaml, env.json, metrics.jsonl, probe.jsonl,
 * result.json, and with train.tensorboard one events.out.tfevents.<seconds>.<host> of each process that trained. */
#ifndef SL_TRAIN_RUNDIR_H
#define SL_TRAIN_RUNDIR_H

#include "config/config.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    char path[4096];
    int lock;  /* on the folder, until it is closed */
    bool made; /* it was not there before */
    FILE *metrics, *probe;
    FILE *events; /* of TensorBoard; NULL: train.tensorboard is off */
    char events_path[4200];
} sl_rundir;

/* Takes the folder for this process, before anything in it is looked at: makes it (and its parents) where that is asked
 * for, and locks it. Fails if another process is training there. */
int sl_rundir_claim(sl_rundir *r, const char *path, bool make);
/* Its files. Resuming after `last` (-1: from the start): lines of later steps are cut off, so that the files go on as
 * if never interrupted; an unfinished last line is cut too, and one that cannot be read is kept in <file>.damaged. */
int sl_rundir_open(sl_rundir *r, const sl_config *c, bool resume, int64_t last);
/* Is it of a run without a folder, never claimed, with lock -1? Then what is written below goes nowhere. */
bool sl_rundir_is_nowhere(const sl_rundir *r);
/* Also of one that was not claimed, if lock is -1. A folder that was made and is still empty goes away. */
void sl_rundir_close(sl_rundir *r);
/* Whether a process is training in the folder. */
bool sl_rundir_in_use(const char *path);
/* Whether the folder holds a run, whole or not. */
bool sl_rundir_holds_run(const char *path);
/* A file that a run would write over in a folder that holds none; NULL: there is none. */
const char *sl_rundir_foreign(const char *path);
/* Fails if the folder is no longer at its path: it must not be made anew. */
int sl_rundir_check(const sl_rundir *r);
/* Appends one JSON line, and its numbers to the events, and flushes both; takes over the reference to o. A full disk
 * is an error. */
int sl_rundir_line(const sl_rundir *r, FILE *f, const char *name, json_t *o);
/* Replaces <name> atomically by o, indented; takes over the reference. */
int sl_rundir_write_json(const sl_rundir *r, const char *name, json_t *o);
/* Where text and tokenizer are, cpu, tier, threads, compiler, versions, git hash of the build. */
json_t *sl_environment(const sl_config *c);

#endif
