"""Which sounds look how: the phonemes of every synthesizer in few classes, each with its mouth in ARKit coefficients.

The classes are the places of articulation and vowel qualities of the IPA, with what cannot be told apart by eye or ear
kept apart only where it is cheap. The shapes follow what the phonetics literature says of lips and jaw (Ladefoged and
Johnson, A Course in Phonetics; the jaw and lip parameters of Edwards et al., JALI, 2016) and are blended by dominance
(Cohen and Massaro 1993): each phone pulls every coefficient towards its own target with a bell-shaped weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar.conventions import MOUTH_BLENDSHAPES


@dataclass(frozen=True)
class Phone:
    """One phone by its name in its synthesizer's alphabet, and when it sounds, seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Utterance:
    """Mono speech with its phones."""

    samples: np.ndarray
    """(S,) float32, -1..1."""
    rate: int
    phones: tuple[Phone, ...]


SILENCE = "_"
# class -> dominance, targets. "mouthStretch" and the like mean both sides.
SHAPES: dict[str, tuple[float, dict[str, float]]] = {
    SILENCE: (1.0, {"mouthPress": 0.06}),
    "p": (3.2, {"jawOpen": 0.04, "mouthPress": 0.42, "mouthRollLower": 0.30, "mouthRollUpper": 0.26}),
    "b": (3.2, {"jawOpen": 0.04, "mouthPress": 0.42, "mouthRollLower": 0.30, "mouthRollUpper": 0.26}),
    "m": (3.2, {"jawOpen": 0.04, "mouthPress": 0.38, "mouthRollLower": 0.30, "mouthRollUpper": 0.26}),
    "f": (2.4, {"jawOpen": 0.07, "mouthRollLower": 0.62, "mouthUpperUp": 0.24, "mouthShrugLower": 0.1}),
    "v": (2.2, {"jawOpen": 0.07, "mouthRollLower": 0.58, "mouthUpperUp": 0.22, "mouthShrugLower": 0.1}),
    "θ": (1.4, {"jawOpen": 0.13, "tongueOut": 0.42, "mouthLowerDown": 0.26, "mouthUpperUp": 0.12}),
    "t": (0.9, {"jawOpen": 0.09, "mouthStretch": 0.12, "mouthLowerDown": 0.20}),
    "d": (0.9, {"jawOpen": 0.10, "mouthStretch": 0.12, "mouthLowerDown": 0.20}),
    "n": (0.9, {"jawOpen": 0.10, "mouthStretch": 0.10, "mouthLowerDown": 0.18}),
    "l": (0.9, {"jawOpen": 0.13, "mouthStretch": 0.10, "mouthLowerDown": 0.20}),
    "s": (1.6, {"jawOpen": 0.035, "mouthStretch": 0.30, "mouthLowerDown": 0.34, "mouthUpperUp": 0.18}),
    "z": (1.6, {"jawOpen": 0.035, "mouthStretch": 0.30, "mouthLowerDown": 0.34, "mouthUpperUp": 0.18}),
    "ʃ": (1.8, {"jawOpen": 0.06, "mouthFunnel": 0.62, "mouthPucker": 0.28, "mouthUpperUp": 0.2,
          "mouthLowerDown": 0.26}),
    "ç": (0.9, {"jawOpen": 0.08, "mouthStretch": 0.24, "mouthLowerDown": 0.24, "mouthSmile": 0.1}),
    "k": (0.7, {"jawOpen": 0.14, "mouthLowerDown": 0.12}),
    "g": (0.7, {"jawOpen": 0.14, "mouthLowerDown": 0.12}),
    "ŋ": (0.7, {"jawOpen": 0.14, "mouthLowerDown": 0.12}),
    "x": (0.7, {"jawOpen": 0.17, "mouthLowerDown": 0.14}),
    "h": (0.25, {"jawOpen": 0.16, "mouthLowerDown": 0.12}),
    "r": (0.9, {"jawOpen": 0.12, "mouthLowerDown": 0.18, "mouthStretch": 0.06}),
    "ɹ": (1.1, {"jawOpen": 0.10, "mouthFunnel": 0.36, "mouthPucker": 0.26}),
    "j": (1.1, {"jawOpen": 0.08, "mouthStretch": 0.30, "mouthSmile": 0.22, "mouthLowerDown": 0.22}),
    "w": (1.7, {"jawOpen": 0.06, "mouthPucker": 0.88, "mouthFunnel": 0.22}),
    "i": (1.2, {"jawOpen": 0.09, "mouthStretch": 0.34, "mouthSmile": 0.26, "mouthLowerDown": 0.26,
          "mouthUpperUp": 0.1}),
    "ɪ": (1.0, {"jawOpen": 0.14, "mouthStretch": 0.20, "mouthSmile": 0.12, "mouthLowerDown": 0.22}),
    "e": (1.2, {"jawOpen": 0.20, "mouthStretch": 0.26, "mouthSmile": 0.14, "mouthLowerDown": 0.28,
          "mouthUpperUp": 0.1}),
    "ɛ": (1.2, {"jawOpen": 0.26, "mouthStretch": 0.20, "mouthSmile": 0.08, "mouthLowerDown": 0.28,
          "mouthUpperUp": 0.1}),
    "æ": (1.4, {"jawOpen": 0.34, "mouthStretch": 0.20, "mouthLowerDown": 0.30, "mouthUpperUp": 0.16}),
    "a": (1.5, {"jawOpen": 0.39, "mouthStretch": 0.12, "mouthLowerDown": 0.28, "mouthUpperUp": 0.16}),
    "ɑ": (1.5, {"jawOpen": 0.42, "mouthLowerDown": 0.22, "mouthUpperUp": 0.10}),
    "ɔ": (1.4, {"jawOpen": 0.33, "mouthFunnel": 0.46, "mouthPucker": 0.20}),
    "o": (1.4, {"jawOpen": 0.24, "mouthFunnel": 0.50, "mouthPucker": 0.40}),
    "ʊ": (1.2, {"jawOpen": 0.15, "mouthPucker": 0.52, "mouthFunnel": 0.24}),
    "u": (1.6, {"jawOpen": 0.09, "mouthPucker": 0.85, "mouthFunnel": 0.24}),
    "y": (1.6, {"jawOpen": 0.08, "mouthPucker": 0.78, "mouthFunnel": 0.30}),
    "ø": (1.3, {"jawOpen": 0.18, "mouthPucker": 0.55, "mouthFunnel": 0.36}),
    "œ": (1.2, {"jawOpen": 0.26, "mouthPucker": 0.36, "mouthFunnel": 0.36}),
    "ə": (0.6, {"jawOpen": 0.16, "mouthLowerDown": 0.12}),
    "ɜ": (1.0, {"jawOpen": 0.18, "mouthFunnel": 0.24, "mouthPucker": 0.14}),
    "ʌ": (1.1, {"jawOpen": 0.29, "mouthLowerDown": 0.18}),
    "ɨ": (0.9, {"jawOpen": 0.11, "mouthStretch": 0.18, "mouthLowerDown": 0.18}),
}  # fmt: skip
CLASSES = tuple(SHAPES)
CLASS_INDEX = {name: i for i, name in enumerate(CLASSES)}
CLOSED = tuple(CLASS_INDEX[name] for name in ("p", "b", "m"))
"""The classes for which the lips must touch."""

# IPA symbols that look and sound much like a class above.
_IPA_ALIKE = {
    "p": "ɸ", "b": "", "m": "ɱ", "f": "", "v": "ʋβ", "θ": "ð", "t": "ʈ", "d": "ɖɗ", "n": "ɳ", "l": "ɫɭɬɮ", "s": "ɕ",
    "z": "ʑ", "ʃ": "ʒʂʐ", "ç": "ɲʎʝ", "k": "qc", "g": "ɡɢɟɠ", "ŋ": "ɴ", "x": "χʁɣʀħ", "h": "ɦʔʕ", "r": "ɾ", "ɹ": "ɻɽɚ",
    "j": "", "w": "ʍɥ", "i": "", "ɪ": "", "e": "", "ɛ": "", "æ": "", "a": "ɐ", "ɑ": "ɒ", "ɔ": "", "o": "", "ʊ": "",
    "u": "",
    "y": "ʏ", "ø": "ɵ", "œ": "ɶ", "ə": "", "ɜ": "ɝ", "ʌ": "ɤ", "ɨ": "ɯʉᵻ",
}  # fmt: skip
_CLASS_OF_SYMBOL = {c: name for name, alike in _IPA_ALIKE.items() for c in name + alike}

# CMU Arctic's phone set (flite, festival's US voices) in IPA.
ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "el": "əl", "em": "m", "en": "n", "er": "ɜ", "ey": "eɪ", "f": "f",
    "g": "g",
    "hh": "h", "hv": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "nx": "n",
    "ng": "ŋ",
    "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u",
    "v": "v",
    "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "", "h#": "", "brth": "",
}  # fmt: skip


def classes_of(ipa: str) -> list[int]:
    """Classes a phone goes through, by index (several for diphthongs and affricates); silence for marks alone."""
    spoken = "" if ipa.startswith("(") else ipa  # espeak-ng names a change of language in brackets
    found = [CLASS_INDEX[_CLASS_OF_SYMBOL[c]] for c in spoken if c in _CLASS_OF_SYMBOL]
    return found or [CLASS_INDEX[SILENCE]]


def segments(utterance: Utterance, arpabet: bool = False) -> list[tuple[int, float, float]]:
    """(class, start, end) of an utterance; a phone of several classes is shared out evenly."""
    out = []
    for phone in utterance.phones:
        classes = classes_of(ARPABET.get(phone.name, "") if arpabet else phone.name)
        step = (phone.end - phone.start) / len(classes)
        out += [(c, phone.start + i * step, phone.start + (i + 1) * step) for i, c in enumerate(classes)]
    return out


_BOTH = {n[: -len("Left")] for n in MOUTH_BLENDSHAPES if n.endswith("Left") and n not in ("jawLeft", "mouthLeft")}
_ROUNDED = [i for i, n in enumerate(MOUTH_BLENDSHAPES) if n in ("mouthPucker", "mouthFunnel")]


def shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Dominance (classes,) and targets (classes, D) in the order of conventions.MOUTH_BLENDSHAPES."""
    targets = np.zeros((len(CLASSES), len(MOUTH_BLENDSHAPES)))
    for row, (_, shape) in zip(targets, SHAPES.values(), strict=True):
        for name, value in shape.items():
            for each in (name + "Left", name + "Right") if name in _BOTH else (name,):
                row[MOUTH_BLENDSHAPES.index(each)] = value
    return np.array([dominance for dominance, _ in SHAPES.values()]), targets


def mouth_track(parts: list[tuple[int, float, float]], times: np.ndarray) -> np.ndarray:
    """Coefficients (n, D) at increasing `times`: dominance blending, then the lips sealed where they must touch."""
    dominance, targets = shape_table()
    weights = np.full((len(times), targets.shape[1]), 0.02)
    pulls = np.zeros_like(weights)
    closed = np.zeros(len(times))
    for c, start, end in parts:
        sigma = 0.022 + 0.34 * min(end - start, 0.5)
        near = slice(*np.searchsorted(times, [start - 4 * sigma - 0.1, end + 4 * sigma + 0.1]))
        width = np.full(targets.shape[1], sigma)
        width[_ROUNDED] += 0.03  # rounding starts earlier and lasts longer than its sound
        bell = dominance[c] * np.exp(-0.5 * ((times[near, None] - (start + end) / 2) / width) ** 2)
        weights[near] += bell
        pulls[near] += bell * targets[c]
        if c in CLOSED:
            ramp = np.minimum((times[near] - start) / 0.06 + 1, (end - times[near]) / 0.06 + 1).clip(0, 1)
            closed[near] = np.maximum(closed[near], ramp)
    mouth = pulls / weights
    seal = targets[CLASS_INDEX["m"]]
    return mouth + closed[:, None] ** 2 * (seal - mouth) * 0.9
