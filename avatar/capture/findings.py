"""What the person should know about the pictures of their clip, and when the clip is no use at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from avatar.capture.crop import face_px
from avatar.capture.decode import DecodeLog
from avatar.capture.faces import Sighting
from avatar.capture.probe import ClipInfo
from avatar.errors import UserError
from avatar.types import Crop, Finding

_SMALL_FACE_PX = 100
"""Below this MediaPipe's mesh (192 px input around the face) sees less than it could use."""
_LOW_CROP_PX = 400
_DARK_FACE = 50
"""Mean luma (0..255) of a face in which noise hides the detail."""
_LOW_FPS, _HIGH_FPS = 19.0, 61.0
_LONG_ENOUGH_SECONDS = 59
_IRREGULAR = 0.25
"""Frame distances off the median by this share of it count as irregular ..."""
_IRREGULAR_SHARE = 0.02
"""... when more than this share of them are."""
_LOST_SECONDS = 0.25


def picture_findings(info: ClipInfo, sightings: Sequence[Sighting], crop: Crop, asked: int | None) -> list[Finding]:
    """Findings from the sampled frames; `asked` is the frame size asked for, px."""
    notes = []
    if asked is not None and crop.size < asked - asked % 2:
        notes.append(
            Finding(
                "note", f"The clip shows head and shoulders on {crop.side} px: frames are {crop.size} px, not {asked}."
            )
        )
    if crop.side < _LOW_CROP_PX:
        notes.append(
            Finding(
                "warning",
                f"Head and shoulders fill only {crop.side} px of the clip: film closer or in higher resolution.",
            )
        )
    face = face_px(sightings, info.upright_size, crop)
    if face < _SMALL_FACE_PX:
        notes.append(
            Finding("warning", f"The face is only {face:.0f} px wide in the avatar's frame: expect less detail.")
        )
    missing = sum(not s.faces for s in sightings)
    if missing:
        notes.append(Finding("warning", f"No face in {missing} of {len(sightings)} pictures spread over the clip."))
    bright = float(np.median([s.brightness for s in sightings if s.faces]))
    if bright < _DARK_FACE:
        notes.append(Finding("warning", f"The picture is dark (face brightness {bright:.0f} of 255): add light."))
    if info.hdr:
        notes.append(Finding("warning", "The clip is HDR, its colours will look flat: film in standard dynamic range."))
    if not info.timed:
        notes.append(Finding("note", f"The clip has no frame times: {info.fps:g} frames per second are assumed."))
    if info.interlaced:
        notes.append(Finding("note", "The clip is interlaced: it was deinterlaced, which costs sharpness."))
    return notes


def time_findings(times: Float[np.ndarray, " N"], duration: float) -> list[Finding]:
    """Findings from the frame times, seconds."""
    notes = []
    steps = np.diff(times)
    fps = float(1 / np.median(steps))  # the usual rate: gaps in a damaged clip do not make it a slow one
    if fps < _LOW_FPS:
        notes.append(
            Finding("warning", f"Only {fps:.1f} frames per second: lips move faster than that, film at 25 or more.")
        )
    if fps > _HIGH_FPS:
        notes.append(Finding("note", f"{fps:.0f} frames per second: more than needed, every step takes longer."))
    if duration < _LONG_ENOUGH_SECONDS:
        notes.append(Finding("note", f"The clip is {duration:.0f} s long; a few minutes give the best avatar."))
    if np.mean(np.abs(steps / np.median(steps) - 1) > _IRREGULAR) > _IRREGULAR_SHARE:
        notes.append(Finding("note", "The frames are not evenly spaced in time; their true times are used."))
    return notes


def damage_findings(info: ClipInfo, log: DecodeLog, duration: float) -> list[Finding]:
    """Findings from what could not be read; `duration` is what could, in seconds."""
    notes = []
    lost = max(info.promised, info.duration) - duration
    if log.failures or log.corrupt or info.damage or lost > max(_LOST_SECONDS, 0.02 * duration):
        what = f"{log.corrupt + len(log.failures)} places" if log.corrupt + len(log.failures) > 1 else "a place"
        rest = f", {lost:.1f} s of picture missing" if lost > _LOST_SECONDS else ""
        notes.append(Finding("warning", f"The clip is damaged in {what}{rest}; what can be read is used."))
    if log.repeated:
        notes.append(Finding("note", f"Frames left out because another one has the same time: {log.repeated}."))
    return notes


def check_length(info: ClipInfo, seconds: float, min_seconds: float) -> None:
    """Raises UserError for a clip of which less than `min_seconds` can be used."""
    if seconds >= min_seconds:
        return
    if max(info.promised, info.duration) >= min_seconds or info.damage:
        raise UserError(
            f"{info.path} is damaged: only {seconds:.1f} s of its picture can be read; record or copy the clip again."
        )
    raise UserError(
        f"{info.path} is too short: {seconds:.1f} s, and {min_seconds:g} s are the least (a few minutes are best)."
    )
