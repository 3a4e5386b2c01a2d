#!/usr/bin/env bash
# Lint, types and tests: everything `make test` checks, in the order in which it is cheapest to fail.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/pyright
# One worker per core; torch's own threads would only fight over them.
tests() { OMP_NUM_THREADS=1 $bin/pytest -n "${AVATAR_TEST_WORKERS:-2}" --dist loadfile "$@"; }
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
tests "$@" 2>&1 | tee "$said" && exit
# A hang (seen once) or a crash takes the worker along: pyproject.toml ends a hang, and the stacks are printed above.
# What did not pass then runs once more; without either, a test that fails is not tried again.
grep -q "^worker .* crashed while running" "$said" || exit 1
echo "A worker died or hung. What did not pass runs once more."
tests "$@" --last-failed
