"""A capture on disk: one folder with every frame as raw RGB, the sound, and a JSON file about both.

frames.rgb    N x size x size x 3 bytes, RGB, rows top to bottom
audio.f32     S little-endian float32 at 16 kHz, sample 0 at the first frame (absent without sound)
capture.json  format, version, size, times (s), fps, crop, source name, hash and size, findings
"""

from __future__ import annotations

import errno
import hashlib
import json
import operator
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import UInt8

from avatar.errors import UserError, one_line
from avatar.media import reason
from avatar.types import Capture, Crop, Finding

FORMAT, VERSION = "avatar-capture", 1
FRAMES, AUDIO, HEADER = "frames.rgb", "audio.f32", "capture.json"
_SPARE_BYTES = 64 << 20
"""Room left on the disk beyond what the frames need."""


class FrameStore:
    """Random access to the frames of a capture; safe to share between threads and forked or spawned workers.

    Reads each frame from the file (`pread`) into a fresh array: a mapped file would count as this process's memory."""

    def __init__(self, path: Path, count: int, size: int) -> None:
        self.path, self._count, self._size = path, count, size
        self._bytes = size * size * 3
        self._lock = threading.Lock()
        self._file = path.open("rb", buffering=0)  # open as long as the store lives

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """Frame `index` (negative counts from the end) as a new array. Raises IndexError outside."""
        at = operator.index(index)
        at += self._count if at < 0 else 0
        if not 0 <= at < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        frame = np.empty((self._size, self._size, 3), np.uint8)
        if self._read(frame, at * self._bytes) != self._bytes:
            raise UserError(f"{self.path} was cut short while in use; prepare the clip again.")
        return frame

    def _read(self, frame: np.ndarray, offset: int) -> int:
        view = frame.reshape(-1).data
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(view) or 0

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameStore, (self.path, self._count, self._size)

    def close(self) -> None:
        """Closes the file; the store cannot be read afterwards."""
        self._file.close()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, renamed to it at the end; removed when the block does not end well.

    An older capture in `folder` is replaced. Raises UserError for what must not be replaced and for disk errors."""
    folder = folder.absolute()
    _check_replaceable(folder)
    made = [p for p in folder.parents if not p.exists()]
    partial = _beside(folder, "partial")
    done = False
    try:
        partial.mkdir(parents=True)
        yield partial
        _move(partial, folder)
        done = True
    except OSError as error:
        raise UserError(_disk_sentence(folder, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made if not done else ():
            with suppress(OSError):
                parent.rmdir()


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Cannot write to {folder}: there is a file of that name; choose another folder.")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / HEADER).exists():
            raise UserError(f"{folder} holds other files; choose an empty or new folder.")
    except OSError as error:
        raise UserError(_disk_sentence(folder, error)) from error


def _move(partial: Path, folder: Path) -> None:
    """Renames; an older capture steps aside first, so that a whole one is on disk at any time."""
    aside = _beside(folder, "old")
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}-{os.getpid()}")


def abandoned(folder: Path) -> set[Path]:
    """What processes that were killed while `new_folder` worked left beside `folder`."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.(?:partial|old)-(\d+)")
    found = ((path, name.fullmatch(path.name)) for path in folder.parent.glob(".*"))
    return {path for path, match in found if match and not _at_work(int(match[1]))}


def _at_work(process: int) -> bool:
    """Whether another process of that number runs. In a container numbers come back: one of our own is left over."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs, as someone else's
    return True


def _disk_sentence(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {folder} is full; free some space or choose another folder."
    return f"Cannot write into {folder} ({reason(error)}); choose another folder."


def check_space(folder: Path, frames: int, size: int) -> None:
    """Raises UserError when `frames` frames of `size` px do not fit onto the disk of `folder`."""
    need = frames * size * size * 3 + _SPARE_BYTES
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < need:
        raise UserError(
            f"The decoded clip needs {need / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB free;"
            " free some space, choose another folder or a smaller frame size."
        )


def write_header(folder: Path, capture: Capture) -> None:
    """Writes capture.json and audio.f32 of a capture whose frames are already in `folder`."""
    if capture.audio is not None:
        capture.audio.astype("<f4").tofile(folder / AUDIO)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "times": [round(float(t), 9) for t in capture.times],
        "fps": capture.fps,
        "audio_samples": None if capture.audio is None else len(capture.audio),
        "crop": asdict(capture.crop),
        "source_name": capture.source_name,
        "source_sha256": capture.source_sha256,
        "source_size": list(capture.source_size),
        "findings": [asdict(f) for f in capture.findings],
    }
    (folder / HEADER).write_text(json.dumps(header, allow_nan=False), encoding="utf-8")


def load_capture(folder: Path) -> Capture:
    """Opens a capture; the frames stay on disk. Raises UserError where it is missing, damaged, or newer."""
    folder = Path(folder)
    header = _read_header(folder)
    try:
        crop = Crop(**{name: int(header["crop"][name]) for name in ("left", "top", "side", "size")})
        times = np.array(header["times"], np.float64)
        samples = header["audio_samples"]
        findings = tuple(Finding(str(f["severity"]), str(f["message"])) for f in header["findings"])
        width, height = (int(side) for side in header["source_size"])
        name, sha256, fps = str(header["source_name"]), str(header["source_sha256"]), float(header["fps"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / HEADER} is damaged ({one_line(error)}); prepare the clip again.") from error
    if times.ndim != 1 or len(times) == 0 or not (np.diff(times) > 0).all() or crop.size < 2:
        raise UserError(f"{folder / HEADER} is damaged (frame times or sizes); prepare the clip again.")
    _check_length(folder / FRAMES, len(times) * crop.size**2 * 3)
    audio = None
    if samples is not None:
        _check_length(folder / AUDIO, 4 * int(samples))
        audio = np.fromfile(folder / AUDIO, "<f4").astype(np.float32, copy=False)
    frames = FrameStore(folder / FRAMES, len(times), crop.size)
    return Capture(folder, frames, times, fps, audio, crop, name, sha256, (width, height), findings)


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no prepared clip in {folder}; run `avatar fit` or `avatar track` on one.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / HEADER} cannot be read ({one_line(error)}); prepare the clip again.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{folder / HEADER} does not describe a prepared clip; prepare the clip again.")
    if not isinstance(header.get("version"), int) or header["version"] > VERSION:
        raise UserError(f"{folder} was prepared by a newer version of this program; update, or prepare it again.")
    return header


def _check_length(path: Path, length: int) -> None:
    actual = path.stat().st_size if path.is_file() else -1
    if actual != length:
        state = "missing" if actual < 0 else f"{actual} bytes long instead of {length}"
        raise UserError(f"{path} is {state}; prepare the clip again.")


def clip_sha256(clip: Path) -> str:
    """SHA-256 of the clip's bytes, hexadecimal. Raises UserError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(clip).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{clip} cannot be read ({reason(error)}).") from error
    return digest.hexdigest()
