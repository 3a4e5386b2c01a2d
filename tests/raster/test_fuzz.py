"""A thousand random scenes under AddressSanitizer and UndefinedBehaviorSanitizer (fuzz.cpp)."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import simt_build

INCLUDE = f"-I{simt_build.ROOT / 'cuda_ext'}"
ADDRESS = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-fsanitize=address",
    "-fno-omit-frame-pointer",
    "-DAVATAR_SIMT_EMULATION",
    INCLUDE,
]
BOTH = [*ADDRESS, "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]


def program() -> Path:
    """The fuzzer. The SIMD kernels are checked for addresses only: the rest would take minutes to compile."""
    cpu, cuda = simt_build.ROOT / "cuda_ext" / "cpu", simt_build.ROOT / "cuda_ext" / "cuda"
    own = Path(__file__).with_name("fuzz.cpp")
    folder = simt_build.ROOT / "build" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"fuzz-{simt_build.sources_digest(own.read_text(), *BOTH)}"
    if target.exists():
        return target
    math = ["-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    units = [(cpu / "level_baseline.cpp", [*ADDRESS, *math])]
    units += [(path, BOTH) for path in (cpu / "rasterizer.cpp", cpu / "threads.cpp", own)]
    units += [(cuda / f"{name}.cu", BOTH) for name in ("animate", "order", "blend", "loss", "sh", "api")]
    objects = [folder / f"fuzz-{os.getpid()}-{path.stem}-{i}.o" for i, (path, _) in enumerate(units)]

    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]

    compiler = str(simt_build.compiler())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(
            lambda job: run([compiler, *job[0][1], "-x", "c++", "-c", str(job[0][0]), "-o", str(job[1])]),
            zip(units, objects, strict=True),
        ))  # fmt: skip
    beside = target.with_suffix(f".{os.getpid()}")
    run([compiler, "-fsanitize=address,undefined", "-pthread", *map(str, objects), "-o", str(beside)])
    for path in objects:
        path.unlink()
    beside.replace(target)
    return target


def test_a_thousand_random_scenes_stay_in_bounds_and_finite() -> None:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler")
    done = subprocess.run(
        [str(program()), "1000", "20"], capture_output=True, text=True, timeout=900,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == "1000 scenes\n"
