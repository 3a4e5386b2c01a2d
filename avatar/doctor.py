"""What is installed, which backends work, what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from avatar.cores import usable_cores
from avatar.errors import one_line
from avatar.quiet import quiet_native_stderr

OK: Final = "ok"
MISSING: Final = "missing"
OPTIONAL: Final = "optional"
"""Absent, and nothing of the main path needs it."""

GIB: Final = 2**30
NEEDED_RAM: Final = 3 * GIB
"""A fit stays below this on a clip of any length."""
NEEDED_DISK: Final = 2 * GIB
"""Room for the decoded frames, checkpoints and pictures of a run of a few minutes' clip."""
NEWEST_PYTHON: Final = (3, 12)
OLDEST_PYTHON: Final = (3, 10)

DECODERS: Final = ("h264", "hevc", "vp9", "av1", "mpeg1video", "mpeg4")
ENCODERS: Final = ("libx264", "aac")

FACE_MODELS: Final = (
    "face_landmark/face_landmark_with_attention.tflite",
    "face_detection/face_detection_short_range.tflite",
    "face_detection/face_detection_full_range_sparse.tflite",
    "selfie_segmentation/selfie_segmentation.tflite",
)
"""Networks that capture and track use, inside the mediapipe wheel under ``modules/``."""


@dataclass(frozen=True)
class Check:
    """One row of the examination."""

    name: str
    status: str
    """`OK`, `MISSING` (the main path needs it) or `OPTIONAL` (absent, nothing needs it)."""
    detail: str
    """What was found."""
    hint: str = ""
    """How to get it; empty where nothing is to be done."""


def doctor() -> list[Check]:
    """Examines this machine and installation; never raises, whatever is broken."""
    probes: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("Python", _python),
        ("processor", _processor),
        ("memory", _memory),
        ("disk", _disk),
        ("PyTorch", _torch),
        ("native rasterizer", _native),
        ("video", _video),
        ("face tracking", _mediapipe),
        ("sound", _sound),
        ("TensorBoard", _tensorboard),
        ("viewer", _viewer),
        ("player's speech", _player_speech),
        ("speech encoder", _encoder),
        ("presets", _presets),
        ("CUDA device", _cuda),
        ("CUDA rasterizer", _cuda_kernels),
        ("gsplat", _gsplat),
        ("nvcc", _nvcc),
    )
    return [_safely(name, probe) for name, probe in probes]


def print_doctor(checks: list[Check] | None = None, console: Console | None = None) -> None:
    """Prints the examination (of now, or `checks`) as a table with a verdict below it."""
    console = console or Console(highlight=False)
    checks = doctor() if checks is None else checks
    styles = {OK: "green", MISSING: "bold red", OPTIONAL: "dim"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.detail)
        if check.hint:
            text.append("\n" + check.hint, style=styles[check.status] if check.status == MISSING else "dim")
        table.add_row(Text(check.name), Text(check.status, style=styles[check.status]), text)
    console.print(table)
    missing = [check.name for check in checks if check.status == MISSING]
    if missing:
        console.print(Text(f"\nNot ready: {', '.join(missing)}. See above for how to get it.", style=styles[MISSING]))
    else:
        console.print(Text("\nReady: everything that a fit needs is here.", style=styles[OK]))


def _safely(name: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except Exception as error:  # a broken native library fails in any way it likes, and that is the finding
        return Check(name, MISSING, f"cannot be examined: {one_line(error)}", "Install the package again.")


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Check("Python", MISSING, detail, "Use Python 3.10, 3.11 or 3.12.")
    return Check("Python", OK, detail)


def _processor() -> Check:
    simd = "vector width unknown"
    if importlib.util.find_spec("torch"):
        import torch

        simd = torch.backends.cpu.get_cpu_capability()
        simd = "no wide vectors" if simd == "DEFAULT" else simd
    return Check("processor", OK, f"{usable_cores()} cores, {simd}")


def memory_limit() -> int | None:
    """Bytes of RAM this process may use: the machine's, or less in a container; None where it cannot be told."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, versions 2 and 1
        path = Path("/sys/fs/cgroup") / name
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found, default=None)


def _memory() -> Check:
    limit = memory_limit()
    if limit is None:
        return Check("memory", OK, "size unknown", "A fit needs up to 3 GB.")
    if limit < NEEDED_RAM:
        return Check("memory", MISSING, f"{limit / GIB:.1f} GB", "A fit needs up to 3 GB.")
    return Check("memory", OK, f"{limit / GIB:.1f} GB")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / GIB:.1f} GB free here"
    if free < NEEDED_DISK:
        return Check("disk", MISSING, detail, "Free some space: a run of a few minutes' clip needs about 2 GB.")
    return Check("disk", OK, detail)


def _torch() -> Check:
    if not importlib.util.find_spec("torch"):
        return Check("PyTorch", MISSING, "not installed", "pip install torch")
    import torch

    return Check("PyTorch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _native() -> Check:
    name, hint = "native rasterizer", "Install a C++ compiler, then in the checkout: pip install ."
    from avatar.raster import native  # not at the top: it needs torch, which may be what is missing

    why = native.unavailable()
    if why:
        return Check(name, MISSING, f"not available, the slow PyTorch twin is used ({why})", hint)
    return Check(name, OK, f"built, runs on {native.simd_level()}")


def _video() -> Check:
    if not importlib.util.find_spec("av"):
        return Check("video", MISSING, "PyAV is not installed", "pip install av")
    import av

    lacking = [*_lacking_codecs(DECODERS, "r"), *_lacking_codecs(ENCODERS, "w")]
    detail = f"PyAV {av.__version__}"
    if lacking:
        hint = "Use PyAV's own wheels: pip install --force-reinstall --only-binary av av"
        return Check("video", MISSING, f"{detail} without {', '.join(lacking)}", hint)
    return Check("video", OK, f"{detail}; reads {', '.join(DECODERS)}; writes {', '.join(ENCODERS)}")


def _lacking_codecs(names: tuple[str, ...], mode: Literal["r", "w"]) -> Iterator[str]:
    from av.codec import Codec

    for name in names:
        try:
            Codec(name, mode)
        except Exception:  # PyAV has changed the class it raises for an unknown codec more than once
            yield name


def _mediapipe() -> Check:
    name, hint = "face tracking", "pip install 'mediapipe>=0.10.14,<0.10.22'"
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        detail = "mediapipe is not installed: avatars can be rendered and driven by speech, but no clip can be tracked"
        return Check(name, MISSING, detail, hint)
    version = _version("mediapipe")
    modules = Path(next(iter(spec.submodule_search_locations))) / "modules"
    absent = [model for model in FACE_MODELS if not (modules / model).is_file()]
    if absent:
        detail = f"mediapipe {version} without its models ({', '.join(Path(model).stem for model in absent)})"
        return Check(name, MISSING, detail, hint)
    try:
        with quiet_native_stderr():
            importlib.import_module("mediapipe.python.solutions.face_mesh")
    except Exception as error:  # most often a system library that OpenCV loads
        system = "On Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
        return Check(name, MISSING, f"mediapipe {version} cannot be loaded ({one_line(error)})", system)
    return Check(name, OK, f"mediapipe {version} with face mesh, face detection and person mask inside")


def _sound() -> Check:
    wanted = ("librosa", "soundfile", "soxr")
    absent = [package for package in wanted if not importlib.util.find_spec(package)]
    if absent:
        return Check("sound", MISSING, f"without {', '.join(absent)}: no speech", f"pip install {' '.join(absent)}")
    return Check("sound", OK, ", ".join(f"{package} {_version(package)}" for package in wanted))


def _tensorboard() -> Check:
    return _package("TensorBoard", "tensorboard", MISSING, "training curves while a fit runs")


def _viewer() -> Check:
    return _package("viewer", "viser", MISSING, "avatar view")


def _player_speech() -> Check:
    name = "player's speech"
    wanted = ("torch", "onnx", "onnxscript", "onnxruntime")
    absent = [package for package in wanted if not importlib.util.find_spec(package)]
    if absent:
        detail = f"without {', '.join(absent)}: an exported player moves, but does not speak from sound"
        return Check(name, OPTIONAL, detail, "pip install 'avatar[onnx]'")
    from avatar.export.runtime import HOW_TO_GET, find_runtime  # not at the top: it needs torch
    from avatar.progress import SILENT

    if find_runtime(None, SILENT) is None:
        detail = "onnxruntime-web is not here: an exported player moves, but does not speak from sound"
        return Check(name, OPTIONAL, detail, f"{HOW_TO_GET} (in the folder where you export)")
    return Check(name, OK, f"onnx {_version('onnx')}, onnxruntime {_version('onnxruntime')}, onnxruntime-web")


def _encoder() -> Check:
    name = "speech encoder"
    if not importlib.util.find_spec("transformers"):
        detail = "the package transformers is not installed: speech is learned from the clip alone"
        return Check(name, OPTIONAL, detail, "pip install 'avatar[encoder]'")
    return Check(name, OK, f"transformers {_version('transformers')}: avatar fit CLIP --speech-encoder FOLDER")


def _presets() -> Check:
    from avatar.config import preset_names

    names = preset_names()
    if not names:
        return Check("presets", MISSING, "none found", "The installation is incomplete: install the package again.")
    return Check("presets", OK, ", ".join(names))


def _cuda() -> Check:
    name, hint = "CUDA device", "Only makes a fit faster; a CUDA build of PyTorch is at https://pytorch.org."
    if not importlib.util.find_spec("torch"):
        return Check(name, OPTIONAL, "unknown without PyTorch", hint)
    import torch

    if not torch.cuda.is_available():
        return Check(name, OPTIONAL, "none that PyTorch can use", hint)
    free, total = torch.cuda.mem_get_info()
    return Check(name, OK, f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GB free")


def _cuda_kernels() -> Check:
    name = "CUDA rasterizer"
    from avatar.raster import cuda

    if cuda.library_path() is None:
        hint = "Only for a GPU: with nvcc on the PATH (CUDA toolkit 12 or newer), in the checkout: pip install ."
        return Check(name, OPTIONAL, "not built: no nvcc when the package was installed; the CPU's is complete", hint)
    why = cuda.unavailable()
    if why == cuda.NO_DEVICE:
        return Check(name, OK, f"built; {why}")
    if why:
        return Check(name, MISSING, f"cannot be loaded ({why})", "Install the package again: pip install .")
    return Check(name, OK, "built and usable")


def _gsplat() -> Check:
    from avatar.raster import gsplat_backend

    if why := gsplat_backend.unavailable():
        return Check("gsplat", OPTIONAL, f"{why}", "Only for comparing rasterizers.")
    return Check("gsplat", OK, f"{_version('gsplat')}: --rasterizer gsplat")


def _nvcc() -> Check:
    folder = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    beside = shutil.which("nvcc", path=str(Path(folder) / "bin")) if folder else None
    found = beside or shutil.which("nvcc")
    if found:
        return Check("nvcc", OK, found)
    return Check("nvcc", OPTIONAL, "not found", "Only needed to build the CUDA kernels from source.")


def _package(name: str, package: str, otherwise: str, purpose: str) -> Check:
    """A package by presence alone: importing it would take seconds, or compile something."""
    if importlib.util.find_spec(package):
        return Check(name, OK, f"{_version(package)}: {purpose}")
    return Check(name, otherwise, f"not installed: {purpose}", f"pip install {package}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
