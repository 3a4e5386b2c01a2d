"""How this person moves around the mouth: ranges, blinks, poses, and a stretch of their own motion to draw from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, MOUTH_INDICES
from avatar.errors import UserError
from avatar.geometry import columns_at, matrix_from_rotvec, nearest_rotation, rigid, rotvec_from_matrix
from avatar.speech.offset import mouth_signals
from avatar.speech.targets import closed_frames, plausible_range
from avatar.types import Track

FACE_INDICES: list[int] = [i for i in range(len(BLENDSHAPES)) if i not in MOUTH_INDICES]
"""Coefficients that speech does not drive: brows, eyes, cheeks, nose."""
EYE_COLUMNS: list[int] = [k for k, i in enumerate(FACE_INDICES) if BLENDSHAPES[i].startswith("eye")]
"""Those of FACE_INDICES that a blink moves."""
LIDS: list[int] = [BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]
EXCERPT_RATE = 25.0
"""Rows per second of the recorded motion."""
EXCERPT_SECONDS = 60.0
"""Longest recorded motion that is kept (0.2 MB)."""
BLINK_RATE = 100.0
"""Samples per second of the blink's shape."""
BLINK_REACH_SECONDS = 0.25
"""The shape covers this much before and after full closure."""
BLINK_PROMINENCE = 0.15
"""Smallest rise of eyeBlink that counts as a blink."""
BLINK_LONGEST_SECONDS = 0.5

# Used where a clip shows fewer than two blinks: adults while talking, after Bentivoglio et al. 1997 (26 per minute),
# closing in 80 ms and opening in 160 ms (Guitton et al. 1991).
_USUAL_BLINK_RATE = 26 / 60
_USUAL_CLOSING_SECONDS = 0.08
_USUAL_OPENING_SECONDS = 0.16
_USUAL_CLOSED = 0.7
_FASTEST_BLINKS = 1.0  # per second; more is a squint that the tracker cannot decide on

# Standard deviations of the averages that take tracking noise off recorded motion, seconds.
_HEAD_NOISE, _TORSO_NOISE, _FACE_NOISE = 0.06, 0.12, 0.05
_TORSO_SLOW = 0.4
_SPEAKING_SECONDS, _SPEAKING_SHARE = 0.4, 0.35


@dataclass(frozen=True)
class PersonStatistics:
    """Plain arrays; `to_tensors` and `from_tensors` carry them through the avatar file."""

    mean: Float32[np.ndarray, "52"]
    std: Float32[np.ndarray, "52"]
    low: Float32[np.ndarray, "52"]
    high: Float32[np.ndarray, "52"]
    """Plausible range of each coefficient."""
    rest: Float32[np.ndarray, "52"]
    """Mean while the mouth is closed and relaxed."""
    blink_rate: float
    """Blinks per second."""
    blink_shape: Float32[np.ndarray, " B"]
    """Closure 0..1 at BLINK_RATE, 1 in the middle."""
    blink_closed: Float32[np.ndarray, " F"]
    """Coefficients of FACE_INDICES at full closure. Only the eyes' count: a tracker sees more than eyeBlink in a blink,
    and the avatar has learned blinks as the tracker shows them."""
    neutral_head: Float[np.ndarray, "4 4"]
    """Mean camera_from_head."""
    neutral_torso: Float[np.ndarray, "4 4"]
    torso_follows: Float32[np.ndarray, "2"]
    """How far the torso goes with the head's slow motion: rotation, translation; 0..1."""
    excerpt_head: Float32[np.ndarray, "T 6"]
    """Recorded motion at EXCERPT_RATE: rotation vector (rad, in camera axes) and shift (cm) from the neutral pose."""
    excerpt_torso: Float32[np.ndarray, "T 6"]
    excerpt_face: Float32[np.ndarray, "T F"]
    """Coefficients of FACE_INDICES, blinks taken out."""
    excerpt_speaking: Float32[np.ndarray, " T"]
    """1 where the lips were moving as in speech, 0 where they rested for a while."""

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Name -> float tensor."""
        return {f.name: torch.as_tensor(np.asarray(getattr(self, f.name))) for f in fields(self)}

    @staticmethod
    def from_tensors(tensors: dict[str, torch.Tensor]) -> PersonStatistics:
        """Back from `to_tensors`.

        Raises:
            KeyError, ValueError: something is missing or of another shape.
        """
        if "excerpt_speaking" not in tensors:  # files of schema 1 do not tell: everything counts as speaking
            tensors = tensors | {"excerpt_speaking": torch.ones(len(tensors["excerpt_head"]))}
        arrays = {f.name: tensors[f.name].detach().cpu().numpy() for f in fields(PersonStatistics)}
        rate = float(arrays.pop("blink_rate"))
        rows = len(arrays["excerpt_head"])
        shapes = {"neutral_head": (4, 4), "neutral_torso": (4, 4), "blink_closed": (len(FACE_INDICES),)}

        shapes |= {name: (len(BLENDSHAPES),) for name in ("mean", "std", "low", "high", "rest")}
        shapes |= {"excerpt_head": (rows, 6), "excerpt_torso": (rows, 6), "excerpt_face": (rows, len(FACE_INDICES))}
        shapes |= {"torso_follows": (2,), "excerpt_speaking": (rows,)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"person statistics: {name} has shape {arrays[name].shape}, not {shape}")
        if rows == 0 or not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("person statistics: no recorded motion, or values that are not numbers")
        return PersonStatistics(blink_rate=rate, **arrays)


def person_statistics(track: Track) -> PersonStatistics:
    """Statistics of the frames in which the face was found.

    Raises:
        UserError: the track shows no face.
    """
    frames = np.flatnonzero(track.valid)
    if len(frames) == 0:
        raise UserError("The track shows no face in any frame; film the face and run again.")
    times, coefficients = track.times[frames], track.coefficients[frames].astype(np.float64)
    rest = coefficients[closed_frames(track, frames)].mean(axis=0)
    low, high = plausible_range(coefficients)
    neutral_head, neutral_torso = (
        _mean_pose(track.camera_from_head[frames]),
        _mean_pose(track.camera_from_torso[frames]),
    )
    head = offsets_from_poses(track.camera_from_head[frames], neutral_head)
    torso = offsets_from_poses(track.camera_from_torso[frames], neutral_torso)
    blinks = _find_blinks(times, coefficients)
    rate, shape, closed = _blink_statistics(times, coefficients, blinks)
    at = _excerpt_times(times)
    open_eyes = _without_blinks(times, coefficients, blinks)[:, FACE_INDICES]
    return PersonStatistics(
        mean=_f32(coefficients.mean(axis=0)), std=_f32(coefficients.std(axis=0)), low=_f32(low), high=_f32(high),
        rest=_f32(rest), blink_rate=rate, blink_shape=_f32(shape), blink_closed=_f32(closed),
        neutral_head=neutral_head, neutral_torso=neutral_torso, torso_follows=_torso_follows(times, head, torso),
        excerpt_head=_f32(_resampled(at, times, smoothed(head, times, _HEAD_NOISE))),
        excerpt_torso=_f32(_resampled(at, times, smoothed(torso, times, _TORSO_NOISE))),
        excerpt_face=_f32(_resampled(at, times, smoothed(open_eyes, times, _FACE_NOISE))),
        excerpt_speaking=_f32(np.interp(at, times, _speaking(times, mouth_signals(track)[frames, 0])).round()),
    )  # fmt: skip


def _speaking(times: Float[np.ndarray, " N"], opening: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """1 where the lips keep moving, 0 where they rest: their speed, averaged, against what is usual for this person."""
    if len(times) < 3:
        return np.ones(len(times))
    speed = np.abs(np.gradient(smoothed(opening[:, None], times, _FACE_NOISE)[:, 0], times))
    busy = smoothed(speed[:, None], times, _SPEAKING_SECONDS)[:, 0]
    return (busy > _SPEAKING_SHARE * np.percentile(busy, 75)).astype(np.float64)


# --- poses ---


def offsets_from_poses(
    poses: Float[np.ndarray, "N 4 4"], neutral: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "N 6"]:
    """Rotation vector in camera axes (rad) and shift (cm) that lead from the neutral pose to each pose."""
    turn = poses[:, :3, :3] @ neutral[:3, :3].T
    return np.concatenate([rotvec_from_matrix(turn), poses[:, :3, 3] - neutral[:3, 3]], axis=1)


def poses_from_offsets(
    offsets: Float[np.ndarray, "N 6"], neutral: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "N 4 4"]:
    """The inverse of `offsets_from_poses`."""
    offsets = np.asarray(offsets, np.float64)
    return rigid(matrix_from_rotvec(offsets[:, :3]) @ neutral[:3, :3], offsets[:, 3:] + neutral[:3, 3])


def _mean_pose(poses: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "4 4"]:
    rotation = nearest_rotation(poses[:, :3, :3].mean(axis=0))
    return rigid(rotation, poses[:, :3, 3].mean(axis=0))


def _torso_follows(
    times: np.ndarray, head: Float[np.ndarray, "N 6"], torso: Float[np.ndarray, "N 6"]
) -> Float32[np.ndarray, "2"]:
    slow = smoothed(head, times, _TORSO_SLOW)
    gains = []
    for part in (slice(0, 3), slice(3, 6)):
        power = (slow[:, part] ** 2).sum()
        gains.append((slow[:, part] * torso[:, part]).sum() / power if power > 1e-12 else 0.0)
    return _f32(np.clip(gains, 0, 1))


# --- blinks ---


def _find_blinks(times: np.ndarray, coefficients: Float[np.ndarray, "N 52"]) -> Int64[np.ndarray, " K"]:
    """Frames of full closure."""
    if len(times) < 3:
        return np.zeros(0, np.int64)
    both = coefficients[:, LIDS].mean(axis=1)
    frames_per_second = (len(times) - 1) / (times[-1] - times[0])
    longest = BLINK_LONGEST_SECONDS * frames_per_second
    peaks, _ = find_peaks(both, prominence=BLINK_PROMINENCE, width=(0, longest), wlen=max(3, int(4 * longest)))
    return peaks.astype(np.int64)


def _blink_statistics(
    times: np.ndarray, coefficients: Float[np.ndarray, "N 52"], blinks: Int64[np.ndarray, " K"]
) -> tuple[float, Float[np.ndarray, " B"], Float[np.ndarray, " F"]]:
    """Rate, shape, and the coefficients of FACE_INDICES at closure."""
    eyes, face = coefficients[:, LIDS], coefficients[:, FACE_INDICES]
    reach = round(BLINK_REACH_SECONDS * BLINK_RATE)
    steps = np.arange(-reach, reach + 1) / BLINK_RATE
    usual = np.clip(1 - np.where(steps < 0, -steps / _USUAL_CLOSING_SECONDS, steps / _USUAL_OPENING_SECONDS), 0, 1)
    usual = usual**2 * (3 - 2 * usual)
    if len(blinks) < 2:
        closed = face.mean(axis=0)
        for lid, largest in zip(LIDS, eyes.max(axis=0), strict=True):
            closed[FACE_INDICES.index(lid)] = max(largest, _USUAL_CLOSED)
        return _USUAL_BLINK_RATE, usual, closed
    rate = min(len(blinks) / (times[-1] - times[0]), _FASTEST_BLINKS)
    shapes = [_blink_shape(times, eyes.mean(axis=1), int(b), steps) for b in blinks]
    shape = np.mean(shapes, axis=0) * np.clip(1.2 * (1 - (steps / BLINK_REACH_SECONDS) ** 2), 0, 1)  # ends at 0
    return rate, shape / shape[reach], np.median(face[blinks], axis=0)


def _blink_shape(times: np.ndarray, signal: np.ndarray, peak: int, steps: np.ndarray) -> np.ndarray:
    around = np.interp(times[peak] + steps, times, signal)
    base = np.minimum(np.minimum.accumulate(around[: len(steps) // 2 + 1]).min(), around[len(steps) // 2 :].min())
    return (around - base) / max(signal[peak] - base, 1e-6)


def _without_blinks(
    times: np.ndarray, coefficients: Float[np.ndarray, "N 52"], blinks: Int64[np.ndarray, " K"]
) -> Float[np.ndarray, "N 52"]:
    """The eyes' coefficients bridged over each blink; a blink moves gaze and squint in a tracker's eyes, too."""
    seen = np.ones(len(times), bool)
    for blink in blinks:
        seen &= np.abs(times - times[blink]) > BLINK_REACH_SECONDS
    if seen.sum() < 2:
        return coefficients
    out = coefficients.copy()
    for name, i in BLENDSHAPE_INDEX.items():
        if name.startswith("eye"):
            out[:, i] = np.interp(times, times[seen], coefficients[seen, i])
    return out


# --- resampling ---


def smoothed(
    values: Float[np.ndarray, "N D"], times: Float[np.ndarray, " N"], seconds: float
) -> Float[np.ndarray, "N D"]:
    """Gaussian average of standard deviation `seconds`, of values at any (increasing) times."""
    if len(times) < 3:
        return np.asarray(values, np.float64)
    step = min(seconds / 2, float(np.median(np.diff(times))))
    even = np.arange(times[0], times[-1] + step, step)
    average = gaussian_filter1d(_resampled(even, times, values), seconds / step, axis=0, mode="nearest")
    return _resampled(times, even, average)


def _excerpt_times(times: Float[np.ndarray, " N"]) -> Float[np.ndarray, " T"]:
    """Even times over the first EXCERPT_SECONDS; frames without a face between are bridged."""
    end = min(times[-1], times[0] + EXCERPT_SECONDS)
    return times[0] + np.arange(int((end - times[0]) * EXCERPT_RATE) + 1) / EXCERPT_RATE


def _resampled(at: np.ndarray, times: np.ndarray, values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "M D"]:
    return columns_at(at, times, values)


def _f32(values: np.ndarray | list) -> Float32[np.ndarray, "..."]:
    return np.ascontiguousarray(values, np.float32)
