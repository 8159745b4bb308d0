# Sourced by ./quickstart and ./check: installs what is missing and builds. Bash, from the repository root.

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# need PACKAGE...: Debian or Ubuntu packages; installs the missing ones as root or through sudo, else
# prints the one line to run.
need() {
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || die "Please install these with your package manager, then run this again: ${missing[*]}"
    say "installing ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            die "Please run, then run this again:  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
        fi
    fi
    "${as_root[@]}" apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}; check the network and the package sources, then run this again"
}

# What the engine needs to build; OpenBLAS and SLEEF only as yardsticks of tests and bench.
ENGINE_PACKAGES=(gcc libc6-dev meson ninja-build pkg-config libyaml-dev libjansson-dev libxxhash-dev libnuma-dev
    libopenblas-openmp-dev libsleef-dev check)
REPORT_PACKAGES=(python3 python3-venv)

# build FOLDER [meson options]: configures once, then builds.
build() {
    local dir=$1
    shift
    [ -f "$dir/build.ninja" ] || meson setup "$dir" "$@" >"$dir.log" 2>&1 || { tail -20 "$dir.log"; die "meson setup $dir failed; see $dir.log"; }
    ninja -C "$dir" >"$dir.log" 2>&1 || { tail -40 "$dir.log"; die "the build in $dir failed; see $dir.log"; }
}

# python_env: .venv with the pinned packages of the report; remade when the pins change.
python_env() {
    local stamp=.venv/requirements.sha256 want
    want=$(sha256sum experiments/requirements.txt)
    [ "$(cat $stamp 2>/dev/null)" = "$want" ] && return 0
    say "making .venv (matplotlib and friends)"
    /usr/bin/python3 -m venv .venv || die "python3 -m venv failed; install python3-venv"
    .venv/bin/pip install -q --disable-pip-version-check -r experiments/requirements.txt ||
        die "pip could not install experiments/requirements.txt; check the network, then run this again"
    printf '%s\n' "$want" >$stamp
}
