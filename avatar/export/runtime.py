"""onnxruntime-web, the library that runs the speech model in the browser: found, checked, and taken along.

It comes from the npm package of that name; two of its files are enough (the module without WebGPU, and the WebAssembly
it loads). The set-up of a checkout puts them into ``viewer/player/runtime``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from avatar.errors import UserError
from avatar.export.sources import player_sources
from avatar.progress import Reporter

MODULE: Final = "ort.wasm.bundle.min.mjs"
WASM: Final = "ort-wasm-simd-threaded.wasm"
FOLDER: Final = "runtime"
HOW_TO_GET: Final = "npm install onnxruntime-web"


@dataclass(frozen=True)
class Runtime:
    """What goes into the folder."""

    files: dict[str, bytes]
    module: str
    """Paths of the module and of the WebAssembly in it."""
    wasm: str
    version: str


def find_runtime(folder: Path | None, reporter: Reporter) -> Runtime | None:
    """The runtime from `folder`, or from where the set-up or npm puts it; None, and said, where it is in neither.

    Raises:
        UserError: `folder` does not hold it.
    """
    places = [folder] if folder is not None else usual_places()
    for place in places:
        for inside in (place, place / "dist", place / "node_modules" / "onnxruntime-web" / "dist"):
            if (inside / MODULE).is_file() and (inside / WASM).is_file():
                return _taken(inside)
    if folder is not None:
        raise UserError(
            f"{folder} holds no {MODULE} and {WASM}; name the folder of the npm package ({HOW_TO_GET} gets it)."
        )
    reporter.warn(
        "onnxruntime-web is not here, so the player will not speak from sound; to add it, run "
        f"'{HOW_TO_GET}' in this folder and export again, or name its folder with --runtime."
    )
    return None


def usual_places() -> list[Path]:
    """Beside the player's sources, then where ``npm install`` run here puts it."""
    return [player_sources() / FOLDER, Path.cwd()]


def _taken(inside: Path) -> Runtime:
    files = {f"{FOLDER}/{name}": (inside / name).read_bytes() for name in (MODULE, WASM)}
    about = next((p for p in (inside / "package.json", inside.parent / "package.json") if p.is_file()), None)
    version = str(json.loads(about.read_text(encoding="utf-8")).get("version", "")) if about else ""
    head = files[f"{FOLDER}/{MODULE}"][:400].decode("utf-8", "replace").split("*/")[0]
    notice = "\n".join(line.strip(" */!") for line in head.splitlines() if line.strip(" */!"))
    files[f"{FOLDER}/NOTICE.txt"] = f"{notice}\nhttps://github.com/microsoft/onnxruntime\n".encode()
    return Runtime(files, f"{FOLDER}/{MODULE}", f"{FOLDER}/{WASM}", version)
