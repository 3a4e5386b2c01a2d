#!/usr/bin/env bash
# Puts onnxruntime-web, which runs the speech model in the exported player, into viewer/player/runtime: two files of the
# npm package, with their hashes checked. Needs npm; without it the player does everything but speech.
set -euo pipefail
version=1.30.0
module_sha256=11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90
wasm_sha256=3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2
cd "$(dirname "$0")/.."
to=viewer/player/runtime
sums="$module_sha256  $to/ort.wasm.bundle.min.mjs
$wasm_sha256  $to/ort-wasm-simd-threaded.wasm"
if echo "$sums" | sha256sum --check --status 2>/dev/null; then exit 0; fi
if ! command -v npm >/dev/null; then
  echo "onnxruntime-web $version is not here and npm, which would get it, is not installed." >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm pack --silent --pack-destination "$work" "onnxruntime-web@$version" >/dev/null
tar -xzf "$work/onnxruntime-web-$version.tgz" -C "$work" package/package.json \
  package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
mkdir -p "$to"
mv "$work"/package/dist/* "$work/package/package.json" "$to/"
if ! echo "$sums" | sha256sum --check --quiet; then
  rm -rf "$to"
  echo "onnxruntime-web $version is not what it was when its hashes were taken; it is not used." >&2
  exit 1
fi
