"""What a user lays over a motion while it is drawn: edits of single coefficients, and a head motion of their own.

An edit is a JSON track, {"names": ["jawOpen", ...], "frames": [{"time": s, "weights": [0.4, null, ...]}]}: only the
coefficients it names are touched, only between its first and last frame, and null leaves one alone. Values between
frames are interpolated; at either end the edit comes and goes over FADE_SECONDS.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.errors import UserError, one_line
from avatar.geometry import poses_at
from avatar.speech import PersonStatistics, following_torso
from avatar.speech.manner import eyes_against
from avatar.track import head_rotations, read_motion_csv, read_motion_json
from avatar.track.exchange import JSON_ERRORS
from avatar.types import Motion

FADE_SECONDS = 0.12
"""About the time a lip movement takes."""


@dataclass(frozen=True)
class Edit:
    """Coefficients that are set at certain times."""

    names: tuple[str, ...]
    times: Float[np.ndarray, " K"]
    weights: Float[np.ndarray, "K m"]
    """NaN where the edit leaves a coefficient alone."""

    def apply(self, motion: Motion) -> Motion:
        """The motion with the edit; times are the motion's own."""
        coefficients = motion.coefficients.copy()
        ends = [self.times[0] - FADE_SECONDS, self.times[-1] + FADE_SECONDS]
        for name, column in zip(self.names, self.weights.T, strict=True):
            there = np.isfinite(column)
            if not there.any():
                continue
            value = np.interp(motion.times, self.times[there], column[there])
            share = np.interp(motion.times, [ends[0], *self.times, ends[1]], [0.0, *there, 0.0], left=0.0, right=0.0)
            own = coefficients[:, BLENDSHAPE_INDEX[name]]
            coefficients[:, BLENDSHAPE_INDEX[name]] = own + share * (value - own)
        return replace(motion, coefficients=coefficients)


def read_edit(path: Path) -> Edit:
    """Reads a JSON edit.

    Raises:
        UserError: no such file, not of that form, unknown coefficients, numbers out of 0..1, or times that do not
            increase.
    """
    if not path.is_file():
        raise UserError(f"There is no edit file {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = tuple(str(n) for n in content["names"])
        times = np.array([float(f["time"]) for f in content["frames"]], np.float64)
        rows = [[np.nan if w is None else float(w) for w in f["weights"]] for f in content["frames"]]
        weights = np.array(rows, np.float64).reshape(len(times), len(names))
    except JSON_ERRORS as error:
        raise UserError(
            f'{path} is not an edit ({{"names": [...], "frames": [{{"time": s, "weights": [...]}}]}}): '
            f"{type(error).__name__} {one_line(error)}."
        ) from error
    unknown = [n for n in names if n not in BLENDSHAPE_INDEX]
    if unknown:
        raise UserError(f"{path} names no coefficient with '{unknown[0]}'; the names are ARKit's, for example jawOpen.")
    if len(times) == 0 or len(names) == 0:
        raise UserError(f"{path} holds no frames or no names: there is nothing to edit.")
    if not np.isfinite(times).all() or np.any(np.diff(times) <= 0):
        raise UserError(f"The times in {path} do not increase from frame to frame.")
    if (
        np.isinf(weights).any()
        or (weights[np.isfinite(weights)] < 0).any()
        or (weights[np.isfinite(weights)] > 1).any()
    ):
        raise UserError(f"{path} holds a weight outside 0..1.")
    return Edit(names, times, weights)


@dataclass(frozen=True)
class HeadMotion:
    """Head poses of a file, and the torso's that go with them."""

    times: Float[np.ndarray, " K"]
    head: Float[np.ndarray, "K 4 4"]
    torso: Float[np.ndarray, "K 4 4"]
    eyes_of: PersonStatistics | None = None
    """Whose eyes stay on the camera meanwhile; None leaves the eyes alone."""

    def apply(self, motion: Motion) -> Motion:
        """The motion with these poses; after the last one the head stays."""
        head, torso = (poses_at(motion.times, self.times, p) for p in (self.head, self.torso))
        looks = motion.coefficients if self.eyes_of is None else eyes_against(motion.coefficients, head, self.eyes_of)
        return replace(motion, coefficients=looks, camera_from_head=head, camera_from_torso=torso)


def read_head_motion(path: Path, person: PersonStatistics, gaze: str = "generated") -> HeadMotion:
    """The head rotation of a CSV or JSON track from its first frame on, around where the person's head usually is;
    `gaze` as in `speech.SpeechControls`.

    Raises:
        UserError: unreadable, or without head rotation.
    """
    times, _, angles = read_track_file(path)
    if angles is None:
        raise UserError(f"{path} holds no head rotation; --pose takes generated, fixed, or a track that has one.")
    head = np.repeat(person.neutral_head[None], len(times), axis=0)
    head[:, :3, :3] = head_rotations(angles)
    torso = following_torso(head, person, times)
    return HeadMotion(times - times[0], head, torso, person if gaze == "camera" else None)


def read_track_file(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Times, coefficients and head angles (or None) of a CSV or JSON motion track, by its suffix.

    Raises:
        UserError: missing or unreadable.
    """
    if not path.is_file():
        raise UserError(f"There is no motion file {path}.")
    return read_motion_json(path) if path.suffix.lower() == ".json" else read_motion_csv(path)
