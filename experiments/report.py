"""The page about runs (sinkstudy/report/report.py), as a program: `sinklab report` starts it, and where that is
installed Python finds the package beside this file."""

import sys

from sinkstudy.report.report import main

if __name__ == "__main__":
    sys.exit(main())
