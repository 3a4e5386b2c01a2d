"""Compiles the CUDA sources for the host, through the SIMT emulation, once per state of the sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = tuple(
    ROOT / "cuda_ext" / "cuda" / f"{name}.cu" for name in ("animate", "order", "blend", "loss", "sh", "api")
)


def sources_digest(*flags: str) -> str:
    """Changes whenever a source, a header or a flag does."""
    digest = hashlib.sha256(" ".join(flags).encode())
    for path in sorted((ROOT / "cuda_ext").rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def build(name: str, sources: list[Path], flags: list[str]) -> Path:
    """Compiles and links with g++; the result stays in build/tests until the sources change."""
    folder = ROOT / "build" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{sources_digest(*flags)}"
    if target.exists():
        return target
    beside = target.with_suffix(f".{os.getpid()}")
    compile_cuda = [part for source in sources for part in ("-x", "c++", str(source))]
    command = [str(compiler()), "-std=c++17", "-DAVATAR_SIMT_EMULATION", *flags, *compile_cuda, "-o", str(beside)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    beside.replace(target)
    return target
