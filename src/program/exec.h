/* The memory that a program runs in. */
#ifndef SL_PROGRAM_EXEC_H
#define SL_PROGRAM_EXEC_H

#include "program/program.h"

/* Plans the program and takes its memory: activations, states, losses, and scratch for sl_threads() workers. p has its
 * values already. Of a program for a device it takes what the host needs beside it, and no buffer has memory: x->buf
 * holds NULL. x->tokens and x->targets are set before each pass. Returns 0, or -1 with a message; close it either
 * way. */
int sl_exec_open(sl_exec *x, sl_program *b, const sl_params *p);
void sl_exec_close(sl_exec *x);

#endif
