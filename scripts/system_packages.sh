#!/usr/bin/env bash
# Installs the few shared libraries that Python wheels expect from the system, where we may and they are missing.
set -euo pipefail
missing=()
command -v g++ >/dev/null || missing+=(g++)
for pair in libGL.so.1:libgl1 libgthread-2.0.so.0:libglib2.0-0; do
  ldconfig -p 2>/dev/null | grep -q "${pair%%:*}" || missing+=("${pair##*:}")
done
[ "${#missing[@]}" -eq 0 ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "please install: ${missing[*]} (Debian names), e.g. sudo apt-get install ${missing[*]}" >&2
  exit 2
fi
