# Sourced by start and render, from the repository root: installs what is missing, builds, prepares the corpus,
# and fetches the real model: a lecture room may have no network.
. .ci/setup.sh

need "${ENGINE_PACKAGES[@]}" "${REPORT_PACKAGES[@]}" "${PYTHON_PACKAGES[@]}"
python_env study python notebooks
say "building"
build build "src/sinklab python tests/unit/unit_grad_model" # the last: what lesson 8 begins with
say "preparing the corpus"
/usr/bin/python3 data/prepare.py --any-version treasury
.venv/bin/python data/fetch_model.py smollm2-135m || say "going on without it: lessons 2, 5 and 7 take the small model"
export PYTHONPATH="$PWD/build/python:$PWD/notebooks${PYTHONPATH:+:$PYTHONPATH}"
# Threads that wait for each other shall soon sleep, not spin: on a busy machine spinning costs ten times the work.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
