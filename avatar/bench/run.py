"""Which backends run on which scenes, and the table."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from avatar.bench.measure import Figures, avatar_fps, measure
from avatar.bench.scenes import SIZES, SceneSize, load_or_make
from avatar.errors import UserError
from avatar.files import check_writable, replacing
from avatar.progress import SILENT, Reporter
from avatar.raster import cuda, gsplat_backend, native
from avatar.raster.device import describe_device

BACKENDS = ("cpu", "cuda", "twin", "gsplat")
DRAWING = ("cpu", "cuda")
"""Those of them that avatars are drawn with."""
SLOW_PIXELS = 10_000 * 256 * 256
"""The twin draws scenes up to this many Gaussians x pixels; larger ones take minutes and gigabytes."""


def bench(
    avatar: Path | None = None,
    backends: tuple[str, ...] = BACKENDS,
    scenes: Path | None = None,
    only: tuple[str, ...] = (),
    seconds: float = 1.0,
    json_path: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Measures every backend that runs here on every scene, one after the other on the same scene.

    Args:
        avatar: an avatar file whose drawing is timed too.
        backends: of BACKENDS.
        scenes: folder in which the scenes are kept, so that others repeat the very same ones.
        only: names of scenes, such as 30k_512px_b1; all without.
        seconds: time per figure.
        json_path: file for the result.
    Raises:
        UserError: an unknown backend or scene, nothing that runs, or a file that cannot be read or written.
    """
    sizes = _chosen(only)
    if not backends:
        raise UserError(f"Name at least one backend after --backends: {', '.join(BACKENDS)}.")
    if unknown := set(backends) - set(BACKENDS):
        raise UserError(f"There is no backend '{sorted(unknown)[0]}'; choose among {', '.join(BACKENDS)}.")
    if not 0.01 <= seconds <= 600:
        raise UserError(f"--seconds {seconds} is out of range; choose 0.01 to 600.")
    absent = {name: why for name in backends if (why := _unavailable(name))}
    if avatar is not None and not set(backends) & set(DRAWING):
        raise UserError(
            f"An avatar is drawn by {' or '.join(DRAWING)}; add one to --backends, or leave the avatar out."
        )
    present = [name for name in backends if name not in absent]
    if not present:
        raise UserError(f"No backend can run here: {'; '.join(f'{k}: {v}' for k, v in absent.items())}.")
    if json_path is not None:
        check_writable(json_path)
    fps = {} if avatar is None else _avatar_rows(avatar, present, seconds)
    rows: list[Figures] = []
    with reporter.bar("measuring", len(sizes) * len(present)) as bar:
        for size in sizes:
            scene = load_or_make(size, scenes)
            for name in present:
                rows.append(_row(scene, size, name, seconds))
                bar.advance()
    result: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cpu": describe_device(torch.device("cpu")),
            "simd": native.simd_level() if not native.unavailable() else None,
            "gpu": describe_device(torch.device("cuda")) if torch.cuda.is_available() else None,
            "torch": torch.__version__,
        },
        "unavailable": absent,
        "rows": [dataclasses.asdict(row) for row in rows],
        "avatar_fps": fps,
    }
    if json_path is not None:
        with replacing(json_path) as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def print_bench(result: dict[str, Any], console: Console | None = None) -> None:
    """The result as one table."""
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("scene", "backend"):
        table.add_column(title, no_wrap=True)
    for title in ("forward ms", "backward ms", "step ms", "peak MiB"):
        table.add_column(title, justify="right")
    table.add_column("", overflow="fold")
    for row in result["rows"]:
        figures = (row["forward_ms"], row["backward_ms"], row["step_ms"], row["peak_mib"])
        table.add_row(row["scene"], row["backend"], *(_number(x) for x in figures), row["note"])
    console.print(table)
    for name, fps in result["avatar_fps"].items():
        console.print(f"{name}: {fps:.0f} pictures of the avatar per second")
    for name, why in result["unavailable"].items():
        console.print(f"{name}: {why}", markup=False)


def _chosen(only: tuple[str, ...]) -> tuple[SceneSize, ...]:
    known = {size.name: size for size in SIZES}
    for name in only:
        if name not in known:
            raise UserError(f"There is no scene '{name}'; choose among {', '.join(known)}.")
    return tuple(known[name] for name in only) or SIZES


def _unavailable(name: str) -> str:
    if name == "cpu":
        return native.unavailable()
    if name == "cuda":
        return cuda.unavailable()
    return gsplat_backend.unavailable() if name == "gsplat" else ""


def _device(name: str) -> torch.device:
    return torch.device("cuda" if name in ("cuda", "gsplat") else "cpu")


def _row(scene: list[torch.Tensor], size: SceneSize, name: str, seconds: float) -> Figures:
    if name == "twin" and size.splats * size.size * size.size * size.batch > SLOW_PIXELS:
        return Figures(size.name, name, note="too slow to measure")
    return measure(scene, size, name, _device(name), seconds)


def _avatar_rows(path: Path, present: list[str], seconds: float) -> dict[str, float]:
    return {name: avatar_fps(path, _device(name), seconds) for name in present if name in DRAWING}


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.1f}" if x < 1000 else f"{x:.0f}"
