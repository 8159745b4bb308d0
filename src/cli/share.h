/* Files that go with the program: Python of the reports, the template of a study. */
#ifndef SL_CLI_SHARE_H
#define SL_CLI_SHARE_H

enum { SL_SHARE_CHARS = 4096 };
/* The path of a file ("experiments/report.py") of the share folder: ../share/sinklab from the folder of the program,
 * which an installation has wherever it was moved, and a build folder as a link to its sources; else the one that was
 * configured. A message that begins with `verb` where there is none. */
int sl_share_find(const char *verb, const char *name, char path[SL_SHARE_CHARS]);

#endif
