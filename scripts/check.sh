#!/usr/bin/env bash
# Lint, types and tests: everything `make test` checks, in the order in which it is cheapest to fail.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/pyright
# One worker per core; torch's own threads would only fight over them.
OMP_NUM_THREADS=1 $bin/pytest -n "${AVATAR_TEST_WORKERS:-2}" --dist loadfile "$@"
