"""The player folder: an avatar as a page that plays in any browser, offline, from any static host.

Beside the page and its modules (``viewer/player``) the folder holds the avatar as compressed tensors
(`avatar.export.payload`), the backdrop as PNG, the speech model as ONNX with the runtime that runs it, and
``manifest.json``, which says what everything means and how long and which every file is.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from avatar.conventions import BRANCHES
from avatar.errors import UserError
from avatar.export.bundle import single_page
from avatar.export.compact import CompactBases, compact_bases, exact_bases
from avatar.export.manifest import MANIFEST, described, exported_files, is_player
from avatar.export.options import ExportOptions
from avatar.export.payload import Payload
from avatar.export.runtime import FOLDER, find_runtime
from avatar.export.sources import source_files
from avatar.export.speech_step import speech_step
from avatar.files import replacing, replacing_folder
from avatar.model import Avatar, to_bytes
from avatar.speech.person import PersonStatistics

SPLATS, BASES, DRIVERS, PERSON, BACKDROP, SPEECH = (
    "splats.bin", "bases.bin", "drivers.bin", "person.bin", "backdrop.png", "a2e.onnx",
)  # fmt: skip
SPLAT_STEPS: Final = {
    "means": 2e-4, "quats": 5e-4, "log_scales": 1e-3, "colors": 5e-4, "opacity_logits": 4e-3, "skin": 1e-4,
}  # fmt: skip
"""Steps of the canonical Gaussians' int16: cm, and the attribute's own unit; skin is the head's share, 0..1."""
_EXCERPT_STEP = 1e-4  # rad, cm and coefficients of the recorded motion


def export_player(avatar: Avatar, folder: Path, options: ExportOptions) -> list[Path]:
    """Writes the player; returns the page to open. Files that were added to an earlier export in the folder stay.

    Raises:
        UserError: the folder holds something else or cannot be written, or an option makes no sense here.
    """
    files = player_files(avatar, options)
    if options.single_file:
        path = folder / f"{options.name}.html"
        with replacing(path) as partial:
            partial.write_bytes(single_page(files))
        return [path]
    if folder.is_dir() and any(folder.iterdir()) and not is_player(folder):
        raise UserError(f"{folder} holds other files; name a new or empty folder with -o.")
    with replacing_folder(folder) as partial:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _keep_added(folder, partial, exported_files(folder) | set(files))
    runtime = sum(len(body) for name, body in files.items() if name.startswith(f"{FOLDER}/"))
    mine = (sum(map(len, files.values())) - runtime) / 1e6
    spoken = f", and {runtime / 1e6:.1f} MB that run its speech model" if runtime else ""
    options.reporter.say(f"{mine:.1f} MB{spoken}; to see it: avatar play {folder}")
    return [folder / "index.html"]


def _keep_added(old: Path, new: Path, written: set[str]) -> None:
    """Copies what others put into the old folder."""
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old).as_posix()
        if name not in written and (path.is_symlink() or not path.is_dir()):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new / name, follow_symlinks=False)


def player_files(avatar: Avatar, options: ExportOptions) -> dict[str, bytes]:
    """Everything that belongs into the folder, by path relative to it; the manifest comes last."""
    payload = Payload()
    bases = exact_bases(avatar) if options.float_bases else compact_bases(avatar)
    for name in BRANCHES:
        _add_branch(payload, avatar, name, bases[name], options.float_bases)
    _add_person(payload, avatar.person)
    files = source_files()
    files |= {name: bytes(body) for name, body in payload.files.items()}
    files[BACKDROP] = _png(avatar)
    speech, more = _speech(avatar, options)
    files |= more
    manifest = described(avatar, options.name, payload.tensors, speech)
    manifest["files"] = {
        path: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for path, body in files.items()
    }
    files[MANIFEST] = json.dumps(manifest, indent=1, allow_nan=False).encode()
    return files


def _speech(avatar: Avatar, options: ExportOptions) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """What the manifest says of the speech model (None: nothing that could be played), and its files."""
    if avatar.speech is None:
        if options.runtime is not None:
            raise UserError("--runtime is for speech, and this avatar has no speech model; leave it out.")
        return None, {}
    try:
        model, description = speech_step(avatar.speech)
    except UserError as error:  # the extra is not installed: everything but speech plays
        options.reporter.warn(f"The player will not speak from sound. {error}")
        return None, {}
    description |= {"model": SPEECH}
    files = {SPEECH: model}
    runtime = find_runtime(options.runtime, options.reporter)
    if runtime is not None:
        files |= runtime.files
        description |= {"runtime": runtime.module, "wasm": runtime.wasm, "runtime_version": runtime.version}
    return description, files


def _add_branch(payload: Payload, avatar: Avatar, name: str, bases: CompactBases, exact: bool) -> None:
    branch = avatar.model.branch(name)
    for key, step in SPLAT_STEPS.items():
        raw = branch.skin_logits.sigmoid() if key == "skin" else getattr(branch, key)
        values = raw.detach().cpu().numpy().reshape(branch.count, -1)
        if exact:
            payload.add(SPLATS, f"{name}.{key}", np.ascontiguousarray(values.T, np.float32))
            continue
        centre = (values.max(axis=0) + values.min(axis=0)) / 2 if key == "means" else np.zeros(values.shape[1])
        payload.add_quantised(SPLATS, f"{name}.{key}", values - centre, step, "int16")
        if key == "means":
            payload.add(SPLATS, f"{name}.{key}.centre", centre.astype(np.float32))
    payload.add(BASES, f"{name}.bases.positions", bases.positions)
    payload.add(BASES, f"{name}.bases.rest", bases.rest)
    payload.add(BASES, f"{name}.bases.scale", bases.scale.astype(np.float32))
    if len(bases.modes):
        payload.add(BASES, f"{name}.modes", bases.modes)
        payload.add(BASES, f"{name}.modes.scale", bases.mode_scale.astype(np.float32))
    payload.add(DRIVERS, f"{name}.mix", bases.mix.astype(np.float32))
    driver = {f"{name}.{key}": value for key, value in avatar.model.drivers[name].state_dict().items()}
    limits = {f"limits.{name}.{key}": value for key, value in avatar.model.branch_limits(name).to_tensors().items()}
    for key, value in (driver | limits).items():
        payload.add(DRIVERS, key, value.detach().cpu().numpy().astype(np.float32))
    if name == BRANCHES[0]:
        for key, value in avatar.model.features.state_dict().items():
            payload.add(DRIVERS, f"features.{key}", value.cpu().numpy().astype(np.float32))
        if avatar.model.beyond is not None:
            for key in ("mix", "gram", "opening"):
                payload.add(DRIVERS, f"beyond.{key}", getattr(avatar.model.beyond, key).cpu().numpy())


def _add_person(payload: Payload, person: PersonStatistics) -> None:
    """Their manner: what idle motion, blinks and the mouth's range come from."""
    for key in ("excerpt_head", "excerpt_torso", "excerpt_face"):
        payload.add_quantised(PERSON, f"person.{key}", getattr(person, key), _EXCERPT_STEP, "int16")
    keys = ("mean", "low", "high", "rest", "blink_shape", "blink_closed", "neutral_head", "neutral_torso")
    for key in (*keys, "torso_follows"):
        payload.add(PERSON, f"person.{key}", np.asarray(getattr(person, key), np.float32))
    payload.add(PERSON, "person.blink_rate", np.array([person.blink_rate], np.float32))


def _png(avatar: Avatar) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_bytes(avatar.model.backdrop)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
