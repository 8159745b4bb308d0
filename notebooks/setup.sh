# Sourced by start and render, from the repository root: installs what is missing, builds, prepares the corpus.
. .ci/setup.sh

need "${ENGINE_PACKAGES[@]}" "${REPORT_PACKAGES[@]}" "${PYTHON_PACKAGES[@]}"
python_env study python notebooks
say "building"
build build
ninja -C build python >build.log 2>&1 ||
    { tail -40 build.log >&2; die "the Python package could not be built; all it said: build.log"; }
say "preparing the corpus"
/usr/bin/python3 data/prepare.py --any-version treasury
export PYTHONPATH="$PWD/build/python:$PWD/notebooks${PYTHONPATH:+:$PYTHONPATH}"
# Threads that wait for each other shall soon sleep, not spin: on a busy machine spinning costs ten times the work.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
