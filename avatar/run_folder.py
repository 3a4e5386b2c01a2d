"""The run folder: one place per file name, and the manifest that says whose run it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar.capture.store import abandoned
from avatar.config import FitConfig, with_changes
from avatar.errors import UserError, one_line
from avatar.files import replacing
from avatar.train.checkpoint import checkpoint_path
from avatar.train.monitor import metrics_path

MANIFEST_FORMAT = 1
CAPTURE = "capture"


@dataclass
class RunFolder:
    """Paths of a run, and its manifest `run.json`: the clip's hash, the settings, seconds per stage."""

    path: Path
    clip_name: str
    clip_sha256: str
    config: FitConfig
    face_landmarker: bool
    seconds: dict[str, float]

    @property
    def capture(self) -> Path:
        return self.path / CAPTURE

    @property
    def track(self) -> Path:
        return self.path / "track.safetensors"

    @property
    def speech(self) -> Path:
        return self.path / "speech.safetensors"

    @property
    def avatar(self) -> Path:
        return self.path / f"{self.path.resolve().name}.avatar"

    @property
    def preview(self) -> Path:
        return self.path / "preview.mp4"

    def discard_training(self) -> None:
        """Removes what an earlier fit in this folder could be resumed from; its avatar, preview and report stay until
        new ones take their place."""
        shutil.rmtree(checkpoint_path(self.path).parent, ignore_errors=True)
        with suppress(OSError):
            metrics_path(self.path).unlink(missing_ok=True)

    def save(self) -> None:
        """Writes the manifest.

        Raises:
            UserError: the folder cannot be written.
        """
        body = {
            "format": MANIFEST_FORMAT,
            "clip": self.clip_name,
            "clip_sha256": self.clip_sha256,
            "face_landmarker": self.face_landmarker,
            "settings": dataclasses.asdict(self.config),
            "seconds": self.seconds,
        }
        with replacing(manifest_path(self.path)) as partial:
            partial.write_text(json.dumps(body, indent=1), encoding="utf-8")


def manifest_path(folder: Path) -> Path:
    """Where a run keeps its manifest."""
    return folder / "run.json"


def load_run(folder: Path) -> RunFolder | None:
    """The run in a folder; None if the folder does not exist, or is empty but for a clip whose reading was cut off.

    Raises:
        UserError: the folder holds something else, or a damaged manifest.
    """
    if folder.is_file():
        raise UserError(f"The output {folder} is a file; name a folder with -o.")
    try:
        if not folder.exists() or set(folder.iterdir()) <= abandoned(folder / CAPTURE):
            return None
    except OSError as error:
        raise UserError(f"The output folder {folder} cannot be read: {one_line(error)}.") from None
    path = manifest_path(folder)
    if not path.is_file():
        raise UserError(f"The folder {folder} exists and holds something else; name a new folder with -o.")
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {body['format']}")
        config = with_changes(FitConfig(), body["settings"], where=str(path))
        return RunFolder(
            folder,
            str(body["clip"]),
            str(body["clip_sha256"]),
            config,
            bool(body["face_landmarker"]),
            {str(k): float(v) for k, v in body["seconds"].items()},
        )
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UserError(f"The run in {folder} is damaged ({path.name}: {one_line(error)}); use a new folder.") from None


def run_beside(avatar_path: Path, clip_sha256: str) -> RunFolder | None:
    """The run an avatar file lies in, if it is that clip's and its decoded frames and track are still there."""
    try:
        run = load_run(avatar_path.parent)
    except UserError:
        return None
    usable = run is not None and run.clip_sha256 == clip_sha256 and run.track.is_file() and run.capture.is_dir()
    return run if usable else None


def open_run(
    folder: Path, clip: Path, sha256: str, config: FitConfig, face_landmarker: bool, resume: bool
) -> RunFolder:
    """The run to work in: a new one, the same clip's again, or the one to resume.

    Raises:
        UserError: the folder holds another clip's run or something else; nothing to resume; other settings than the
            run that is to be resumed.
    """
    new = RunFolder(folder, clip.name, sha256, config, face_landmarker, {})
    existing = load_run(folder)
    for path in abandoned(new.capture):
        shutil.rmtree(path, ignore_errors=True)
    if existing is None:
        if resume:
            raise UserError(f"There is nothing to resume in {folder}; run again without --resume.")
        return new
    if existing.clip_sha256 != sha256:
        raise UserError(
            f"The folder {folder} holds the run of another clip ({existing.clip_name}); name a new folder with -o."
        )
    if resume:
        if difference := _difference(existing, new):
            raise UserError(
                f"The run in {folder} was started with other settings ({difference}); "
                "give the same ones, or leave out --resume to start over."
            )
        return existing
    if (existing.config.size, existing.face_landmarker) != (config.size, face_landmarker):
        # What was decoded and tracked fits other settings; stages look at the files, so they must go.
        discard_stages(existing)
    return new


def discard_stages(run: RunFolder) -> None:
    """Removes decoded frames and tracks of a run that are to be made anew."""
    shutil.rmtree(run.capture, ignore_errors=True)
    run.track.unlink(missing_ok=True)
    run.speech.unlink(missing_ok=True)


def _difference(old: RunFolder, new: RunFolder) -> str:
    """The first few settings that differ, as text; empty if none does."""
    found: list[str] = []
    if old.face_landmarker != new.face_landmarker:
        found.append(f"--face-landmarker given {'there, not now' if old.face_landmarker else 'now, not there'}")

    def walk(a: Any, b: Any, prefix: str) -> None:
        for f in dataclasses.fields(a):
            x, y = getattr(a, f.name), getattr(b, f.name)
            if dataclasses.is_dataclass(x):
                walk(x, y, f"{prefix}{f.name}.")
            elif x != y:
                found.append(f"{prefix}{f.name} {x} there, {y} now")

    walk(old.config, new.config, "")
    return "; ".join(found[:3])
