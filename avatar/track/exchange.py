"""Motion tracks that other programs read and write: Live Link Face style CSV, and JSON.

CSV: Timecode (HH:MM:SS:FF.fff, FF frames of a standard rate), BlendShapeCount, the 52 coefficients with a capital first
letter, then HeadYaw, HeadPitch, HeadRoll and yaw, pitch and roll of either eye, all in radians. Head angles are those
of `geometry.matrix_from_euler` in head axes (x to image right, y up, z out of the face): positive yaw turns the face
towards image right, positive pitch down, positive roll tilts it counter-clockwise as seen in the picture; 0 is a head
that looks straight into the camera.
JSON: {"names": [52 names], "frames": [{"time": s, "weights": [52], "head": [yaw, pitch, roll]}]}.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.errors import UserError, one_line
from avatar.files import replacing
from avatar.geometry import euler_from_matrix, matrix_from_euler
from avatar.types import Motion, Track

FACING: Final = np.diag([1.0, -1.0, -1.0])
"""camera_from_head rotation of a head that looks straight into the camera."""
EYE_TURN: Final = 0.6
"""Radians an eye turns at a look coefficient of 1 (about 35 degrees)."""
RATES: Final = (24, 25, 30, 48, 50, 60, 120)
"""Frame rates a time code may count in."""
JSON_ERRORS: Final = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading numbers from someone's JSON may raise."""
_APPLE_ORDER: Final = (
    *(f"eye{a}Left" for a in ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")),
    *(f"eye{a}Right" for a in ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")),
    "jawForward", "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight",
    "mouthLeft",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
_ANGLES: Final = tuple(f"{p}{a}" for p in ("Head", "LeftEye", "RightEye") for a in ("Yaw", "Pitch", "Roll"))


def head_angles(camera_from_head: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "N 3"]:
    """Yaw, pitch, roll of the head in its own axes, radians; 0 looks straight into the camera."""
    return euler_from_matrix(FACING @ camera_from_head[:, :3, :3])


def track_to_csv(track: Track | Motion, path: Path) -> None:
    """Writes the Live Link Face style CSV (whole or not at all).

    Raises:
        UserError: the place cannot be written.
    """
    head = head_angles(track.camera_from_head)
    eyes = np.concatenate([_eye_angles(track.coefficients, "Left"), _eye_angles(track.coefficients, "Right")], axis=1)
    order = [BLENDSHAPE_INDEX[n] for n in _APPLE_ORDER]
    rate = _rate(track.times)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Timecode", "BlendShapeCount", *(_capital(n) for n in _APPLE_ORDER), *_ANGLES])
        for time, weights, turn, look in zip(track.times, track.coefficients, head, eyes, strict=True):
            numbers = [*weights[order], *turn, *look]
            writer.writerow([_timecode(float(time), rate), len(numbers), *(f"{v:.6f}" for v in numbers)])


def track_to_json(track: Track | Motion, path: Path) -> None:
    """Writes the JSON track (whole or not at all).

    Raises:
        UserError: the place cannot be written.
    """
    head = head_angles(track.camera_from_head)
    frames = [
        {"time": round(float(t), 6), "weights": np.round(w, 5).tolist(), "head": np.round(h, 6).tolist()}
        for t, w, h in zip(track.times, track.coefficients.astype(np.float64), head, strict=True)
    ]
    if isinstance(track, Track):  # frames without a usable face are there, bridged from their neighbours, and say so
        frames = [frame | {"valid": bool(valid)} for frame, valid in zip(frames, track.valid, strict=True)]
    with replacing(path) as partial:
        partial.write_text(json.dumps({"names": list(BLENDSHAPES), "frames": frames}), encoding="utf-8")


def read_motion_csv(
    path: Path,
) -> tuple[Float[np.ndarray, " N"], Float32[np.ndarray, "N 52"], Float[np.ndarray, "N 3"] | None]:
    """Times (s from the first row), coefficients 0..1 and head yaw, pitch, roll (radians; None where not in the file).

    Columns are found by name in any order; coefficients that are missing are 0.

    Raises:
        UserError: not such a CSV, broken numbers, or times that do not increase.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV motion track: {one_line(error)}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    columns = {name: header.index(_capital(name)) for name in BLENDSHAPES if _capital(name) in header}
    if "Timecode" not in header or not columns:
        raise UserError(f"{path} is not a Live Link Face CSV: it needs a Timecode column and blendshape columns.")
    if len(rows) < 2 or any(len(row) < len(header) for row in rows[1:]):
        raise UserError(f"{path} has no frames or a line that was cut short.")
    try:
        times = _parse_timecodes([row[header.index("Timecode")] for row in rows[1:]])
        coefficients = np.zeros((len(rows) - 1, len(BLENDSHAPES)), np.float32)
        for name, column in columns.items():
            coefficients[:, BLENDSHAPE_INDEX[name]] = [float(row[column]) for row in rows[1:]]
        angles = None
        if all(name in header for name in _ANGLES[:3]):
            angles = np.array([[float(row[header.index(n)]) for n in _ANGLES[:3]] for row in rows[1:]])
    except ValueError as error:
        raise UserError(f"{path} holds something that is not a number or time code: {one_line(error)}.") from error
    _check_motion(path, times, coefficients, angles)
    return times, coefficients.clip(0, 1), angles


def read_motion_json(
    path: Path,
) -> tuple[Float[np.ndarray, " N"], Float32[np.ndarray, "N 52"], Float[np.ndarray, "N 3"] | None]:
    """Times (s), coefficients 0..1 (names in any order, missing ones 0) and head yaw, pitch, roll (radians; None unless
    every frame has them) of a JSON track.

    Raises:
        UserError: not such a JSON file, wrong lengths, broken numbers, or times that do not increase.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names, frames = content["names"], content["frames"]
        if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("names is not a list of names")
        times = np.array([float(f["time"]) for f in frames])
        weights = np.array([[float(w) for w in f["weights"]] for f in frames], np.float32).reshape(len(times), -1)
        turned = bool(frames) and all("head" in f for f in frames)
        angles = np.array([[float(a) for a in f["head"]] for f in frames]).reshape(len(times), 3) if turned else None
    except JSON_ERRORS as error:
        raise UserError(
            f'{path} is not a motion track ({{"names": [...], "frames": [{{"time": s, "weights": [...]}}]}}): '
            f"{type(error).__name__} {one_line(error)}."
        ) from error
    known = [(i, BLENDSHAPE_INDEX[n]) for i, n in enumerate(names) if n in BLENDSHAPE_INDEX]
    if not known or weights.shape[1] != len(names):
        raise UserError(f"{path} names no known coefficient, or its frames hold another number of weights than names.")
    coefficients = np.zeros((len(times), len(BLENDSHAPES)), np.float32)
    source, target = zip(*known, strict=True)
    coefficients[:, list(target)] = weights[:, list(source)]
    _check_motion(path, times, coefficients, angles)
    return times, coefficients.clip(0, 1), angles


def head_rotations(angles: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3 3"]:
    """camera_from_head rotations of head yaw, pitch, roll in radians: the inverse of `head_angles`."""
    return FACING @ matrix_from_euler(angles)


def _check_motion(path: Path, times: np.ndarray, coefficients: np.ndarray, angles: np.ndarray | None) -> None:
    if len(times) == 0:
        raise UserError(f"{path} has no frames.")
    if not (
        np.isfinite(times).all() and np.isfinite(coefficients).all() and (angles is None or np.isfinite(angles).all())
    ):
        raise UserError(f"{path} holds a number that is not finite.")
    if np.any(np.diff(times) <= 0):
        raise UserError(f"The times in {path} do not increase from frame to frame.")
    if angles is not None and np.abs(angles).max() > np.pi:
        raise UserError(
            f"{path} turns the head by {np.abs(angles).max():.3g} rad, more than half a turn; head angles are radians"
            " (degrees times pi / 180)."
        )


def _eye_angles(coefficients: np.ndarray, side: str) -> np.ndarray:
    """Yaw, pitch, roll of an eye, radians. [N, 3]"""
    look = {a: coefficients[:, BLENDSHAPE_INDEX[f"eyeLook{a}{side}"]] for a in ("In", "Out", "Up", "Down")}
    # the person's left eye looks in towards image left
    towards_right = look["Out"] - look["In"] if side == "Left" else look["In"] - look["Out"]
    pitch = look["Down"] - look["Up"]
    return EYE_TURN * np.stack([towards_right, pitch, np.zeros_like(pitch)], axis=1)


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _rate(times: np.ndarray) -> int:
    """The standard frame rate nearest to the clip's, to count frames of a time code in."""
    fps = 1 / float(np.median(np.diff(times))) if len(times) > 1 else 60.0
    return min(RATES, key=lambda r: abs(np.log(r / fps)))


def _timecode(seconds: float, rate: int) -> str:
    """HH:MM:SS:FF.fff, the fraction in thousandths of a frame."""
    ticks = round(seconds * rate * 1000)
    whole, tick = divmod(ticks, rate * 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{tick // 1000:02d}.{tick % 1000:03d}"


def _parse_timecodes(codes: list[str]) -> np.ndarray:
    """Seconds from the first row. The rate is the smallest standard one that has the highest frame number seen."""
    parts = np.array([[float(p) for p in code.replace(";", ":").split(":")] for code in codes])
    if parts.ndim != 2 or parts.shape[1] != 4:
        raise ValueError(f"time code {codes[0]!r}")
    highest = parts[:, 3].max()
    rate = next((r for r in RATES if highest < r), RATES[-1])
    seconds = parts[:, 0] * 3600 + parts[:, 1] * 60 + parts[:, 2] + parts[:, 3] / rate
    return seconds - seconds[0]
