"""The performance: 52 coefficients and two poses per frame, from the phonemes, the loudness and a seed.

Lips follow dominance blending (Cohen and Massaro 1993): every phoneme pulls each coefficient towards its own target
with a bell-shaped weight, so neighbours colour each other. Everything visible depends only on these coefficients
and poses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES

from .person import GAZE_RADIANS
from .speech import Speech

FPS = 25
NECK_PIVOT = np.array([0.0, -9.0, -3.5])
"""Point in head space about which the head turns on the torso, cm."""
CAMERA_FROM_REST = np.array([[1, 0, 0, 0], [0, -1, 0, -5.2], [0, 0, -1, 100.0], [0, 0, 0, 1.0]])
"""Where torso space rests before the camera: one metre away, OpenCV axes."""

_BOTH = ("mouthSmile", "mouthStretch", "mouthLowerDown", "mouthUpperUp", "mouthPress", "mouthFrown", "mouthDimple")


def _shape(weight: float, **targets: float) -> tuple[float, dict[str, float]]:
    full = {}
    for name, value in targets.items():
        for each in (name + "Left", name + "Right") if name in _BOTH else (name,):
            full[each] = value
    return weight, full


_BILABIAL = _shape(3.2, jawOpen=0.045, mouthPress=0.42, mouthRollLower=0.30, mouthRollUpper=0.26, mouthClose=0.02)
_LABIODENTAL = _shape(2.4, jawOpen=0.07, mouthRollLower=0.62, mouthUpperUp=0.24, mouthShrugLower=0.1)
_DENTAL = _shape(1.4, jawOpen=0.13, tongueOut=0.42, mouthLowerDown=0.26, mouthUpperUp=0.12)
_SIBILANT = _shape(1.6, jawOpen=0.035, mouthStretch=0.30, mouthLowerDown=0.34, mouthUpperUp=0.18)
_HUSHING = _shape(1.8, jawOpen=0.06, mouthFunnel=0.62, mouthPucker=0.28, mouthUpperUp=0.2, mouthLowerDown=0.26)
_ALVEOLAR = _shape(0.9, jawOpen=0.10, mouthStretch=0.12, mouthLowerDown=0.20)
_VELAR = _shape(0.7, jawOpen=0.15, mouthLowerDown=0.12)
_RHOTIC = _shape(1.1, jawOpen=0.10, mouthFunnel=0.36, mouthPucker=0.26)
_REST = _shape(1.0, jawOpen=0.005, mouthPress=0.06)

_I = _shape(1.2, jawOpen=0.09, mouthStretch=0.34, mouthSmile=0.26, mouthLowerDown=0.26, mouthUpperUp=0.1)
_SHORT_I = _shape(1.0, jawOpen=0.14, mouthStretch=0.20, mouthSmile=0.12, mouthLowerDown=0.22)
_E = _shape(1.2, jawOpen=0.25, mouthStretch=0.22, mouthSmile=0.10, mouthLowerDown=0.28, mouthUpperUp=0.10)
_A = _shape(1.5, jawOpen=0.38, mouthStretch=0.14, mouthLowerDown=0.30, mouthUpperUp=0.18)
_AH = _shape(1.5, jawOpen=0.42, mouthLowerDown=0.22, mouthUpperUp=0.10)
_UH = _shape(1.0, jawOpen=0.28, mouthLowerDown=0.18)
_SCHWA = _shape(0.6, jawOpen=0.16, mouthLowerDown=0.12)
_ER = _shape(1.1, jawOpen=0.16, mouthFunnel=0.34, mouthPucker=0.24)
_O = _shape(1.4, jawOpen=0.30, mouthFunnel=0.52, mouthPucker=0.30)
_U = _shape(1.6, jawOpen=0.09, mouthPucker=0.85, mouthFunnel=0.24)
_SHORT_U = _shape(1.2, jawOpen=0.15, mouthPucker=0.52, mouthFunnel=0.24)

# Longest match first: espeak-ng mnemonics carry length marks and variants after these stems.
_VISEMES: dict[str, list[tuple[float, dict[str, float]]]] = {
    "tS": [_ALVEOLAR, _HUSHING], "dZ": [_ALVEOLAR, _HUSHING], "aI": [_A, _I], "aU": [_A, _U], "eI": [_E, _I],
    "oU": [_O, _U], "OI": [_O, _I], "oI": [_O, _I], "e@": [_E, _SCHWA], "i@": [_I, _SCHWA], "U@": [_SHORT_U, _SCHWA],
    "O@": [_O, _RHOTIC], "o@": [_O, _RHOTIC], "A@": [_AH, _RHOTIC], "aI@": [_A, _I, _SCHWA], "aU@": [_A, _U, _SCHWA],
    "p": [_BILABIAL], "b": [_BILABIAL], "m": [_BILABIAL], "f": [_LABIODENTAL], "v": [_LABIODENTAL], "T": [_DENTAL],
    "D": [_DENTAL], "s": [_SIBILANT], "z": [_SIBILANT], "S": [_HUSHING], "Z": [_HUSHING], "t": [_ALVEOLAR],
    "d": [_ALVEOLAR], "n": [_ALVEOLAR], "l": [_ALVEOLAR], "*": [_ALVEOLAR], "k": [_VELAR], "g": [_VELAR], "N": [_VELAR],
    "x": [_VELAR], "h": [(0.25, _SCHWA[1])], "r": [_RHOTIC], "w": [_U], "j": [_I], "i": [_I], "I": [_SHORT_I],
    "e": [_E], "E": [_E], "a": [_A], "A": [_AH], "V": [_UH], "@": [_SCHWA], "3": [_ER], "0": [_AH], "O": [_O],
    "o": [_O], "u": [_U], "U": [_SHORT_U], "_": [_REST],
}  # fmt: skip
_STEMS = re.compile("|".join(re.escape(s) for s in sorted(_VISEMES, key=len, reverse=True)))
_SLOW = tuple(BLENDSHAPE_INDEX[n] for n in ("mouthPucker", "mouthFunnel"))
"""Rounding starts earlier and lasts longer than the sound it belongs to."""


def viseme_of(phoneme: str) -> list[tuple[float, dict[str, float]]]:
    """The mouth shapes a phoneme goes through: (dominance, coefficient targets); empty for marks without a sound."""
    match = _STEMS.match(phoneme)
    return _VISEMES[match.group()] if match else []


@dataclass(frozen=True)
class Performance:
    """`N` frames."""

    times: np.ndarray
    coefficients: np.ndarray
    """(N, 52)."""
    camera_from_head: np.ndarray
    """(N, 4, 4)."""
    camera_from_torso: np.ndarray


def perform(speech: Speech, seed: int, frames: int) -> Performance:
    """The whole clip's motion at FPS."""
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / FPS
    loud = _loudness(speech, frames)
    c = _lips(speech, times, loud)
    _expression(c, times, loud, speech, rng)
    torso = _torso(times, loud, rng)
    head = _head(times, loud, speech, rng)
    camera_from_torso = CAMERA_FROM_REST @ torso
    camera_from_head = camera_from_torso @ head
    _eyes(c, times, camera_from_head, rng)
    return Performance(times, np.clip(c, 0, 1).astype(np.float32), camera_from_head, camera_from_torso)


def _loudness(speech: Speech, frames: int) -> np.ndarray:
    """Smooth envelope of the voice per frame, 0..1."""
    hop = speech.rate / FPS
    padded = np.concatenate([speech.samples, np.zeros(int(hop * (frames + 2)))])
    rms = np.array([np.sqrt(np.mean(padded[int(i * hop) : int((i + 1) * hop)] ** 2)) for i in range(frames)])
    return np.clip(gaussian_filter1d(rms, 1.0) / max(np.percentile(rms, 95), 1e-6), 0, 1.2)


def _lips(speech: Speech, times: np.ndarray, loud: np.ndarray) -> np.ndarray:
    weights = np.full((len(times), len(BLENDSHAPES)), 0.02)
    pulls = np.zeros_like(weights)
    for phoneme in speech.phonemes:
        shapes = viseme_of(phoneme.name)
        duration = phoneme.end - phoneme.start
        for k, (dominance, targets) in enumerate(shapes):
            centre = phoneme.start + duration * (k + 0.5) / len(shapes)
            sigma = 0.022 + 0.34 * min(duration, 0.5) / len(shapes)
            width = np.full(len(BLENDSHAPES), sigma)
            width[list(_SLOW)] += 0.030
            bell = dominance * np.exp(-0.5 * ((times[:, None] - centre) / width) ** 2)
            goal = np.zeros(len(BLENDSHAPES))
            for name, value in targets.items():
                goal[BLENDSHAPE_INDEX[name]] = value
            weights += bell
            pulls += bell * goal
    c = pulls / weights
    _seal(c, speech, times)
    jaw = BLENDSHAPE_INDEX["jawOpen"]
    c[:, jaw] *= 0.72 + 0.40 * loud
    return c


def _closure(speech: Speech, times: np.ndarray) -> np.ndarray:
    """1 while the lips must touch (p, b, m), 0 elsewhere, with flanks of 70 ms: (N,)."""
    closed = np.zeros(len(times))
    for phoneme in speech.phonemes:
        if viseme_of(phoneme.name) == [_BILABIAL]:
            middle, half = (phoneme.start + phoneme.end) / 2, min((phoneme.end - phoneme.start) / 2, 0.06)
            # At least one frame must see the lips together.
            closed = np.maximum(
                closed, _bump(times, middle - max(half - 0.01, 0.02), 0.07, 2 * max(half - 0.01, 0.02), 0.07)
            )
    return closed


def _seal(c: np.ndarray, speech: Speech, times: np.ndarray) -> None:
    """Blending alone would leave quick p, b, m open: brings the lips together, in place."""
    closed = _closure(speech, times)
    for name in (
        "jawOpen",
        "mouthLowerDown",
        "mouthUpperUp",
        "mouthFunnel",
        "mouthPucker",
        "mouthStretch",
        "tongueOut",
    ):
        keep = 0.25 if name in ("mouthPucker", "mouthStretch") else 0.04
        for each in (name + "Left", name + "Right") if name in _BOTH else (name,):
            c[:, BLENDSHAPE_INDEX[each]] *= 1 - (1 - keep) * closed
    for name, value in (("mouthPressLeft", 0.45), ("mouthPressRight", 0.45), ("mouthRollLower", 0.25),
                        ("mouthRollUpper", 0.20), ("mouthShrugLower", 0.25)):  # fmt: skip
        k = BLENDSHAPE_INDEX[name]
        c[:, k] = np.maximum(c[:, k], value * closed)


def _noise(times: np.ndarray, rng: np.random.Generator, slow: float) -> np.ndarray:
    """Smooth random signal of unit amplitude whose periods are around `slow` seconds."""
    total = np.zeros_like(times)
    for k in range(5):
        period = slow * (0.55 + 0.3 * k) * rng.uniform(0.85, 1.15)
        total += np.sin(2 * np.pi * (times / period + rng.random())) / 5**0.5
    return total * 0.75


def _bump(times: np.ndarray, centre: float, rise: float, hold: float, fall: float) -> np.ndarray:
    """0 -> 1 -> 0 with smooth flanks."""

    def ramp(x):
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)

    return ramp((times - centre + rise) / rise) * (1 - ramp((times - centre - hold) / fall))


def _expression(c: np.ndarray, times: np.ndarray, loud: np.ndarray, speech: Speech, rng: np.random.Generator) -> None:
    """Smiles, brows, cheeks, and a little asymmetry, added to `c` in place."""
    i = BLENDSHAPE_INDEX
    end = times[-1]
    smile = 0.15 + 0.05 * _noise(times, rng, 5.0)
    for centre, size in ((0.3, 0.35), (2.6, 0.22), (8.0, 0.25), (15.6, 0.42), (21.5, 0.28), (end - 0.7, 0.45)):
        smile += size * _bump(times, min(centre, end), 0.45, 0.5, 0.8)
    smile = (
        np.clip(smile, 0, 0.75)
        * (1 - 0.4 * _closure(speech, times))
        * (1 - 0.35 * np.clip(c[:, i["mouthPucker"]] + c[:, i["mouthFunnel"]], 0, 1))
    )
    lean = 0.10 * _noise(times, rng, 9.0)
    brow, frown = 0.03 + 0.05 * _noise(times, rng, 4.0), 0.03 + 0.05 * _noise(times, rng, 6.0)
    for start in speech.sentence_starts:
        brow += rng.uniform(0.25, 0.65) * _bump(times, start + 0.25, 0.25, rng.uniform(0.1, 0.5), 0.5)
    for beat in _beats(loud, times, rng):
        if rng.random() < 0.45:
            brow += rng.uniform(0.12, 0.4) * _bump(times, beat, 0.15, 0.1, 0.35)
        elif rng.random() < 0.4:
            frown += rng.uniform(0.2, 0.5) * _bump(times, beat, 0.2, 0.2, 0.4)
    brow, frown = np.clip(brow, 0, 0.8), np.clip(frown, 0, 0.6)
    for side, sign in (("Left", 1), ("Right", -1)):
        uneven = 1 + sign * lean
        c[:, i["mouthSmile" + side]] += smile * uneven
        c[:, i["cheekSquint" + side]] += 0.45 * smile * uneven
        c[:, i["eyeSquint" + side]] += 0.30 * smile + 0.25 * frown
        c[:, i["mouthDimple" + side]] += 0.15 * smile
        c[:, i["browOuterUp" + side]] += 0.85 * brow * (1 + 1.5 * sign * lean)
        c[:, i["browDown" + side]] += frown * uneven
        c[:, i["noseSneer" + side]] += 0.12 * frown + 0.10 * c[:, i["mouthUpperUp" + side]]
        c[:, i["eyeWide" + side]] += 0.18 * np.clip(brow - 0.2, 0, 1)
    c[:, i["browInnerUp"]] += 0.6 * brow
    sway = 0.10 * _noise(times, rng, 3.0)
    c[:, i["jawLeft"]] += np.clip(sway, 0, 1) * 0.4
    c[:, i["jawRight"]] += np.clip(-sway, 0, 1) * 0.4
    c[:, i["mouthLeft"]] += np.clip(sway, 0, 1) * 0.5
    c[:, i["mouthRight"]] += np.clip(-sway, 0, 1) * 0.5
    c[:, i["cheekPuff"]] += 0.10 * np.clip(c[:, i["mouthPressLeft"]] - 0.25, 0, 1)


def _beats(loud: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Times of stressed syllables: peaks of the loudness, at least 0.35 s apart."""
    smooth = gaussian_filter1d(loud, 1.5)
    peaks = [k for k in range(1, len(smooth) - 1) if smooth[k - 1] < smooth[k] >= smooth[k + 1] and smooth[k] > 0.45]
    chosen: list[float] = []
    for k in peaks:
        if not chosen or times[k] - chosen[-1] > 0.35:
            chosen.append(float(times[k]))
    return chosen


def _rotation(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """(N, 3, 3) of radians in head space: yaw about y, then pitch about x (positive looks up), then roll about z."""
    n = len(yaw)
    ry, rx, rz = (np.tile(np.eye(3), (n, 1, 1)) for _ in range(3))
    for m, (a, b), angle in ((ry, (2, 0), yaw), (rx, (1, 2), -pitch), (rz, (0, 1), roll)):
        m[:, a, a] = m[:, b, b] = np.cos(angle)
        m[:, a, b], m[:, b, a] = -np.sin(angle), np.sin(angle)
    return ry @ rx @ rz


def _about(rotation: np.ndarray, pivot: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(N, 4, 4): turn about a pivot, then shift (N, 3)."""
    result = np.tile(np.eye(4), (len(rotation), 1, 1))
    result[:, :3, :3] = rotation
    result[:, :3, 3] = pivot - rotation @ pivot + shift
    return result


def _torso(times: np.ndarray, loud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sway and breath: (N, 4, 4) in torso space."""
    degrees = np.pi / 180
    breath = np.sin(2 * np.pi * times / 4.1)
    yaw = 3.2 * degrees * _noise(times, rng, 7.0)
    roll = 1.3 * degrees * _noise(times, rng, 6.0)
    pitch = 1.2 * degrees * _noise(times, rng, 8.0)
    shift = np.stack([1.3 * _noise(times, rng, 6.5), 0.16 * breath + 0.2 * _noise(times, rng, 5.0),
                      1.2 * _noise(times, rng, 7.5)], -1)  # fmt: skip
    return _about(_rotation(yaw, pitch, roll), np.array([0, -40.0, -8.0]), shift)


def _head(times: np.ndarray, loud: np.ndarray, speech: Speech, rng: np.random.Generator) -> np.ndarray:
    """Turns, nods on the beats, tilts: (N, 4, 4) head in torso space, identity in frame 0."""
    degrees = np.pi / 180
    yaw = 5.5 * _noise(times, rng, 5.2) + 2.0 * _noise(times, rng, 2.3)
    pitch = 2.2 * _noise(times, rng, 4.0) + 0.9 * _noise(times, rng, 1.7)
    roll = 2.8 * _noise(times, rng, 4.6)
    end = times[-1]
    for k, centre in enumerate(np.arange(3.0, end - 0.5, 3.4)):  # deliberate turns to either side
        side = 1 if k % 2 else -1
        yaw += side * rng.uniform(15, 21) * _bump(times, centre, 0.55, rng.uniform(0.3, 0.9), 0.7)
    for beat in _beats(loud, times, rng):
        pitch -= rng.uniform(0.6, 2.6) * _bump(times, beat, 0.14, 0.02, 0.3)
    for start in speech.sentence_starts:
        pitch += rng.uniform(2.5, 7.0) * _bump(times, start, 0.35, 0.1, 0.6)
    for centre in (6.3, 13.1, end - 1.2):  # full nods
        pitch -= 8.5 * _bump(times, centre, 0.22, 0.0, 0.3)
    settle = np.clip(times / 0.8, 0, 1)
    settle = settle * settle * (3 - 2 * settle)
    yaw, pitch, roll = (gaussian_filter1d(a, 1.6) * settle * degrees for a in (yaw, pitch, roll))
    limit = np.array([21.0, 11.0]) * degrees
    yaw, pitch = limit[0] * np.tanh(yaw / limit[0]), limit[1] * np.tanh(pitch / limit[1])
    return _about(_rotation(yaw, pitch, roll), NECK_PIVOT, np.zeros((len(times), 3)))


def _blink_curve(times: np.ndarray, start: float) -> np.ndarray:
    """Lids: 0.10 s down, 0.05 s shut, 0.20 s up."""
    return _bump(times, start + 0.10, 0.10, 0.05, 0.20)


def _eyes(c: np.ndarray, times: np.ndarray, camera_from_head: np.ndarray, rng: np.random.Generator) -> None:
    """Gaze that holds the camera against the head's turns, glances away, blinks; added to `c` in place."""
    i = BLENDSHAPE_INDEX
    camera = -np.einsum("nji,nj->ni", camera_from_head[:, :3, :3], camera_from_head[:, :3, 3])  # in head space
    wander = np.zeros((len(times), 2))
    t, moves = 0.0, []
    while t < times[-1]:
        away = rng.random() < 0.33
        hold = rng.uniform(0.4, 1.0) if away else rng.uniform(0.5, 2.2)
        spread = np.array([0.26, 0.13]) if away else np.array([0.025, 0.018])
        wander[times >= t] = rng.normal(0, 1, 2).clip(-1.6, 1.6) * spread
        moves.append((t, away))
        t += hold
    wander = gaussian_filter1d(wander, 0.6, axis=0)  # a saccade takes about 50 ms
    pitch_all = np.zeros(len(times))
    for side, outwards, x in (("Left", 1, 2.9), ("Right", -1, -2.9)):
        to_camera = camera - np.array([x, 0.0, 5.9])
        yaw = np.arctan2(to_camera[:, 0], to_camera[:, 2]) + wander[:, 0]
        pitch = np.arctan2(to_camera[:, 1], np.hypot(to_camera[:, 0], to_camera[:, 2])) + wander[:, 1]
        pitch_all += pitch / 2
        for name, angle in (("Out", outwards * yaw), ("In", -outwards * yaw), ("Up", pitch), ("Down", -pitch)):
            c[:, i[f"eyeLook{name}{side}"]] = np.clip(angle / GAZE_RADIANS[name], 0, 1)
    blink = np.zeros(len(times))
    t = 1.1
    while t < times[-1] - 0.3:
        blink = np.maximum(blink, _blink_curve(times, t))
        if rng.random() < 0.15:
            blink = np.maximum(blink, _blink_curve(times, t + 0.42))
        t += rng.uniform(1.6, 4.2)
    for side in ("Left", "Right"):
        k = i["eyeBlink" + side]
        lowered = 0.20 * np.clip(-pitch_all / 0.4, 0, 1)
        c[:, k] = np.maximum(lowered, blink)
        c[:, i["eyeWide" + side]] *= 1 - blink
