#!/bin/sh
# Runs a table of command lines and compares exit code and message. Usage: cli.sh SINKLAB TABLE.tsv
# Rows (fields between tabs; '#' starts a comment line):
#   setup  SHELL COMMAND             runs in the table's empty scratch folder, e.g. to make a broken file;
#                                    `. "$tables/fixture.sh"` gives it a corpus, a run and functions
#   CODE   ARGUMENTS  EXPECTED       `sinklab ARGUMENTS`, words as the shell takes them (a blank for none)
# CODE 1 or 2: stdout stays empty, stderr is the one line "sinklab: error: EXPECTED", and no file has come, gone
# or changed in the scratch folder.
# CODE 0: the first line of stdout is EXPECTED. "..." at the end of EXPECTED stands for any rest.
# Output is TAP.
LC_ALL=C
export LC_ALL
sinklab=$(realpath "$1") || exit 1
table=$(realpath "$2") || exit 1
tables=${table%/*}
tab=$(printf '\t')
dir=$(mktemp -d "${TMPDIR:-/tmp}/sinklab-cli-XXXXXX") || exit 1
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
mkdir "$dir/work"
cd "$dir/work" || exit 1

# matches TEXT PATTERN
matches() {
    case $2 in
    *...) case $1 in "${2%...}"*) return 0 ;; esac ;;
    *) [ "$1" = "$2" ] && return 0 ;;
    esac
    return 1
}

# Every file with its size and time of change.
listing() { find . ! -type d -printf '%p %s %T@\n' -o -printf '%p/\n' | sort; }

cases=0
while IFS=$tab read -r code words expected; do
    case $code in
    '' | '#'*) continue ;;
    setup)
        eval "$words" || { printf 'Bail out! setup failed: %s\n' "$words"; exit 1; }
        continue
        ;;
    esac
    cases=$((cases + 1))
    [ "$code" = 0 ] || listing >"$dir/before"
    (eval "\"\$sinklab\" $words") >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    if [ "$code" = 0 ]; then
        line=$(head -n 1 "$dir/out")
        want=$expected
    else
        line=$(tail -n 1 "$dir/err")
        want="sinklab: error: $expected"
    fi
    fault=
    [ "$got" = "$code" ] || fault="exit code $got instead of $code"
    matches "$line" "$want" || fault="$fault; unexpected line"
    if [ "$code" != 0 ]; then
        listing >"$dir/after"
        [ ! -s "$dir/out" ] || fault="$fault; output on stdout"
        [ "$(wc -l <"$dir/err")" = 1 ] || fault="$fault; not one line on stderr"
        cmp -s "$dir/before" "$dir/after" ||
            fault="$fault; files changed: $(diff "$dir/before" "$dir/after" | grep '^[<>]' | tr '\n' ' ')"
    fi
    if [ -z "$fault" ]; then
        printf 'ok %d - sinklab %s\n' $cases "$words"
    else
        printf 'not ok %d - sinklab %s\n# %s\n# expected: %s\n' $cases "$words" "$fault" "$want"
        sed 's/^/# stderr: /' "$dir/err" | head -n 40
        head -n 3 "$dir/out" | sed 's/^/# stdout: /'
    fi
done <"$table"
echo "1..$cases"
