"""First stage: a clip becomes a `Capture`, the frames as the avatar sees them with their times, and the sound."""

from __future__ import annotations

from io import RawIOBase
from pathlib import Path

import numpy as np

from avatar.capture.audio import clip_sound, sound_findings
from avatar.capture.crop import choose_crop
from avatar.capture.decode import DecodeLog, aligned_crop, decode_cropped, sample_frames
from avatar.capture.faces import Sighting, find_faces
from avatar.capture.findings import check_length, damage_findings, picture_findings, time_findings
from avatar.capture.probe import ClipInfo, probe
from avatar.capture.store import FRAMES, FrameStore, check_space, clip_sha256, load_capture, new_folder, write_header
from avatar.progress import SILENT, Reporter
from avatar.types import Capture, Crop

__all__ = ["capture", "clip_sha256", "load_capture"]

_SAMPLES = 14
"""Pictures in which faces are looked for before the crop is fixed."""


def capture(
    clip: Path, folder: Path, size: int | None, reporter: Reporter = SILENT, min_seconds: float = 2.0
) -> Capture:
    """Decodes `clip` into `folder` and opens the result.

    `size` is the side of the avatar's frame in px (None: 512, or less where the clip shows less); nothing is scaled
    up. The frame is the square with head and shoulders, fixed for the clip. `folder` appears only when it is whole;
    an older capture in it is replaced. Findings are in the result, none is printed.

    Raises UserError with one sentence for: no such file, a folder, not a video, no picture, no frame that decodes,
    shorter than `min_seconds`, no face, two people, disk too small or not writable, other files in `folder`."""
    clip, folder = Path(clip), Path(folder)
    info = probe(clip)
    check_length(info, info.duration, min_seconds)
    sightings = find_faces([(frame.seconds, frame.rgb) for frame in sample_frames(info, _SAMPLES)])
    crop = aligned_crop(info, choose_crop(sightings, info.upright_size, size))
    check_space(folder, info.packets, crop.size)
    with new_folder(folder) as partial:
        seconds, log = _write_frames(info, crop, partial, reporter)
        _write_rest(info, crop, sightings, size, seconds, log, partial, min_seconds)
    return load_capture(folder)


def _write_frames(info: ClipInfo, crop: Crop, folder: Path, reporter: Reporter) -> tuple[np.ndarray, DecodeLog]:
    """Decodes all frames into the folder; returns their times on the clip's own clock."""
    log, seconds = DecodeLog(), []
    with (folder / FRAMES).open("wb", buffering=0) as file, reporter.bar("Reading the clip", info.packets) as bar:
        for frame in decode_cropped(info, crop, log):
            _write_all(file, frame.rgb)
            seconds.append(frame.seconds)
            bar.advance()
    return np.array(seconds, np.float64), log


def _write_all(file: RawIOBase, frame: np.ndarray) -> None:
    """An unbuffered write may stop early, for one when the disk fills up; the next one then says why."""
    rest = frame.reshape(-1).data
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _write_rest(
    info: ClipInfo,
    crop: Crop,
    sightings: list[Sighting],
    asked: int | None,
    seconds: np.ndarray,
    log: DecodeLog,
    folder: Path,
    min_seconds: float,
) -> None:
    """Sound and header; refuses a clip of which too little could be decoded."""
    times = seconds - seconds[0] if len(seconds) else seconds
    fps = (len(times) - 1) / times[-1] if len(times) > 1 else 0.0
    duration = float(times[-1] + 1 / fps) if fps > 0 else 0.0
    check_length(info, duration, min_seconds)
    sound = clip_sound(info.path, float(seconds[0]), duration)
    findings = [
        *damage_findings(info, log, duration),
        *picture_findings(info, sightings, crop, asked),
        *time_findings(times, duration),
        *sound_findings(sound, duration),
    ]
    frames = FrameStore(folder / FRAMES, len(times), crop.size)
    result = Capture(
        folder, frames, times, float(fps), sound, crop,
        info.path.name, clip_sha256(info.path), info.upright_size, tuple(findings),
    )  # fmt: skip
    write_header(folder, result)
    frames.close()
