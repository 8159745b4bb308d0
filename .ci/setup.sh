# Sourced by ./quickstart and ./check: installs what is missing and builds. Bash, from the repository root.

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# What the engine needs to build; OpenBLAS and SLEEF only as yardsticks of tests and bench.
ENGINE_PACKAGES=(gcc libc6-dev meson ninja-build pkg-config libyaml-dev libjansson-dev libxxhash-dev libnuma-dev
    libopenblas-openmp-dev libsleef-dev check)
REPORT_PACKAGES=(python3 python3-venv)
PYTHON_PACKAGES=(python3-dev) # of the package `sinklab`, which .venv builds with cffi

# need PACKAGE...: Debian or Ubuntu packages; installs the missing ones as root or through sudo, else
# prints the one line to run.
need() {
    local missing=() as_root=() p log
    command -v apt-get >/dev/null ||
        die "there is no apt-get here: this script knows Debian 12 and Ubuntu 24.04; the packages it wants are: $*"
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q ' ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            die "packages are missing; as root, run:  apt-get update && apt-get install -y ${missing[*]}"
        fi
    fi
    say "installing ${missing[*]}"
    log=$(mktemp)
    { "${as_root[@]}" apt-get update -q || true
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    } </dev/null >"$log" 2>&1 || die "apt-get could not install ${missing[*]} ($(grep -m1 '^E:' "$log" ||
        echo 'no reason given'); all it said: $log)"
    rm -f "$log"
}

# build FOLDER "TARGETS" [meson options]: configures once, and again after .venv (without it there are no tests of the
# Python) or the options have changed, then builds the targets of ninja, or all if there are none; what it said goes to
# FOLDER.log. Tests are more than half of all: who only uses the program shall not wait for them.
build() {
    local dir=$1 targets=$2 again=()
    shift 2
    [ ! -f "$dir/build.ninja" ] || again=(--reconfigure)
    [ -f "$dir/build.ninja" ] && [ ! .venv -nt "$dir/build.ninja" ] && [ "$(cat "$dir/options" 2>/dev/null)" = "$*" ] ||
        { meson setup "${again[@]}" "$dir" "$@" >"$dir.log" 2>&1 && printf '%s\n' "$*" >"$dir/options"; } ||
        { grep -m1 'ERROR:' "$dir.log" >&2 || true; die "meson setup $dir failed; all it said: $dir.log"; }
    # shellcheck disable=SC2086 # targets are words
    ninja -C "$dir" $targets >"$dir.log" 2>&1 ||
        { tail -40 "$dir.log" >&2; die "the build in $dir failed; all it said: $dir.log"; }
}

# python_env [study] [lint] [python]: .venv with the pinned packages of the report, and with those of studies, of checks
# over the Python, and of the package `sinklab`; filled again when pins change, which a stamp for each file of them
# tells. Those of studies take a minute to install: the quickstart does without. The package of experiments/ comes
# last, as it is in this tree: what builds it is among the pins, so that pip fetches nothing for it.
python_env() {
    local files=(experiments/requirements.txt) name file missing=
    for name in "$@"; do
        files+=("experiments/requirements-$name.txt")
    done
    for file in "${files[@]}"; do
        sha256sum --status -c ".venv/${file##*/}.sha256" 2>/dev/null || missing=1
    done
    [ "$missing" ] || return 0
    say "making .venv (pinned packages of ${files[*]})"
    [ -x .venv/bin/pip ] || /usr/bin/python3 -m venv .venv >.venv.log 2>&1 ||
        die "python3 -m venv .venv failed; all it said: .venv.log"
    .venv/bin/pip install -q --disable-pip-version-check "${files[@]/#/-r}" >.venv.log 2>&1 &&
        .venv/bin/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e ./experiments \
            >.venv.log 2>&1 ||
        die "pip could not install ${files[*]}; is there a network? All it said: .venv.log"
    rm -f .venv.log
    for file in "${files[@]}"; do
        sha256sum "$file" >".venv/${file##*/}.sha256"
    done
}
