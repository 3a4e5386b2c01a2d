#!/usr/bin/env bash
# Installs what is expected from the system, where we may and it is missing: a compiler and the few shared libraries
# that Python wheels load; with the argument `tests` also the browser that shows exported avatars and the viewer
# in tests, and npm for the independent readers of exported splats.
set -euo pipefail
missing=()
if [ "${1:-}" = tests ]; then
  command -v chromium >/dev/null || missing+=(chromium)
  command -v npm >/dev/null || missing+=(nodejs npm)
else
  command -v g++ >/dev/null || missing+=(g++)
  for pair in libGL.so.1:libgl1 libgthread-2.0.so.0:libglib2.0-0; do
    ldconfig -p 2>/dev/null | grep -q "${pair%%:*}" || missing+=("${pair##*:}")
  done
fi
[ "${#missing[@]}" -eq 0 ] && exit 0
installed=no
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && installed=yes
fi
[ "$installed" = yes ] && exit 0
if [ "${1:-}" = tests ]; then
  echo "tests in a browser are skipped without: ${missing[*]} (Debian names)" >&2
else
  echo "please install: ${missing[*]} (Debian names), e.g. sudo apt-get install ${missing[*]}" >&2
  exit 2
fi
