#!/usr/bin/env bash
# Everything that needs a GPU, in one go, on a machine that has torch and nvcc but perhaps neither mediapipe, librosa nor viser.
#
#   scripts/gpu_check.sh prepare     on any machine: tracks the demo clip into build/gpu_check/run (the GPU machine cannot)
#   scripts/gpu_check.sh             on the GPU machine: builds the kernels, runs the gpu tests, the bench and a full fit of
#                                    the tracked clip; figures go to docs/benchmarks/ (or $GPU_CHECK_OUT)
#
# PYTHON names the interpreter (default: .venv/bin/python where it exists, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
run=build/gpu_check/run
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ "${1:-}" = prepare ]; then
  rm -rf "$run"
  "$python" -m avatar fit captures/demo.mp4 -o "$run" --size 512 --steps 25
  rm -rf "$run"/checkpoints "$run"/tensorboard "$run"/*.avatar "$run"/preview.mp4 "$run"/report.*
  exit 0
fi

command -v nvcc >/dev/null || { echo "nvcc is not on the PATH" >&2; exit 2; }
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "PyTorch sees no GPU here" >&2; exit 2; }
out="${GPU_CHECK_OUT:-docs/benchmarks}"
mkdir -p "$out"
name="$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "_"))')"

# The package's own build needs nanobind; the kernels alone need nvcc only.
if "$python" -c 'import nanobind' 2>/dev/null; then
  cmake -S . -B build/gpu_check/cmake -DAVATAR_CUDA=ON -DAVATAR_CUDA_ARCHITECTURES=native -DPython_EXECUTABLE="$(command -v "$python")"
  cmake --build build/gpu_check/cmake --parallel
else
  nvcc -std=c++17 -O3 -arch=native --shared -Xcompiler -fPIC -cudart static cuda_ext/cuda/*.cu -o avatar/_raster_cuda.so
fi

"$python" -m pytest -m gpu -p no:cacheprovider tests/raster 2>&1 | tee "$out/$name-tests.txt"
fitted=()
if [ -d "$run" ]; then
  { time -p "$python" -m avatar fit captures/demo.mp4 -o "$run" --preset cpu --device cuda; } 2>&1 | tee "$out/$name-fit.txt"
  fitted=("$run/run.avatar")
fi
"$python" -m avatar bench "${fitted[@]}" --scenes build/gpu_check/scenes --json "$out/$name.json" | tee "$out/$name.txt"
