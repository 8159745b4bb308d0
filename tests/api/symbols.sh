#!/usr/bin/env bash
# symbols.sh LIBRARY HEADER: the shared library exports what the header declares, and nothing else.
set -euo pipefail
# Names with a leading underscore belong to the toolchain (sanitizers, start-up code).
exported=$(nm -D --defined-only "$1" | awk '$3 !~ /^_/ { print $3 }' | sort)
declared=$(sed -n 's/^SL_API .*\b\(sl_[a-z0-9_]*\)(.*/\1/p' "$2" | sort)
[ -n "$declared" ]
[ "$(grep -c '^SL_API' "$2")" -eq "$(wc -l <<<"$declared")" ]
diff <(echo "$declared") <(echo "$exported") || { echo "< declared in $2 only, > exported by $1 only"; exit 1; }
