"""The clip's sound on the clock of its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avatar.conventions import SAMPLE_RATE
from avatar.media import decode_sound
from avatar.types import Finding

_SILENCE_DB = -60.0
"""Loudness of an empty room recorded by a laptop; nobody speaks below this (RMS over the clip, full scale = 0)."""
_QUIET_DB = -45.0
"""Softer than any usable speech recording."""


def clip_sound(clip: Path, first_frame_seconds: float, duration: float) -> Float32[np.ndarray, " S"] | None:
    """Mono sound at SAMPLE_RATE in -1..1, sample 0 at the first frame, no longer than the picture; None without one.

    `first_frame_seconds` is on the clip's own clock. Samples that are not numbers become silence."""
    sound = decode_sound(clip, first_frame_seconds)
    if sound is None or len(sound) == 0:
        return None
    sound = sound[: round(duration * SAMPLE_RATE)]
    np.nan_to_num(sound, copy=False, posinf=0, neginf=0)
    return np.clip(sound, -1, 1, out=sound)


def sound_findings(sound: Float32[np.ndarray, " S"] | None, duration: float) -> list[Finding]:
    """What is wrong with the sound of a clip of `duration` seconds."""
    if sound is None:
        return [Finding("warning", "The clip has no sound: speech is skipped; drive the avatar by video or tracks.")]
    level = 10 * np.log10(np.mean(np.square(sound, dtype=np.float64)) + 1e-12)
    if level < _SILENCE_DB:
        return [Finding("warning", "The sound track is silent: nothing can be learnt about speech from it.")]
    findings = []
    if level < _QUIET_DB:
        findings.append(Finding("warning", f"The sound is very quiet ({level:.0f} dB): record closer to the mouth."))
    missing = duration - len(sound) / SAMPLE_RATE
    if missing > max(0.5, 0.05 * duration):
        findings.append(Finding("note", f"The sound ends {missing:.1f} s before the picture."))
    return findings
