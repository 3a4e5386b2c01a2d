"""The phoneme table behind the synthetic speech: every phone has a class, every class a mouth, and p, b, m close it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from speech_corpus.phonemes import (
    ARPABET,
    CLASS_INDEX,
    CLASSES,
    CLOSED,
    SILENCE,
    Phone,
    Utterance,
    classes_of,
    mouth_track,
    segments,
    shape_table,
)

from avatar.conventions import MOUTH_BLENDSHAPES

JAW = MOUTH_BLENDSHAPES.index("jawOpen")


def test_phones_go_through_the_right_classes() -> None:
    def names(ipa: str) -> list[str]:
        return [CLASSES[c] for c in classes_of(ipa)]

    assert names("tʃ") == ["t", "ʃ"]
    assert names("aɪ") == ["a", "ɪ"]
    assert names("œ̃") == ["œ"]
    assert names("uː") == ["u"]
    assert names("") == names("(en)") == [SILENCE]
    spoken = {k: v for k, v in ARPABET.items() if v}
    assert all(CLASS_INDEX[SILENCE] not in classes_of(v) for v in spoken.values())


def test_shapes_are_coefficients() -> None:
    dominance, targets = shape_table()
    assert targets.shape == (len(CLASSES), len(MOUTH_BLENDSHAPES))
    assert targets.min() >= 0 and targets.max() <= 1 and dominance.min() > 0
    jaw = dict(zip(CLASSES, targets[:, JAW], strict=True))
    assert max(jaw[c] for c in "pbm") < min(jaw[c] for c in ("a", "ɑ", "ɛ", "o"))
    assert all(np.ptp(targets[i]) > 0 for i in range(1, len(CLASSES)))


def test_an_open_vowel_opens_and_a_bilabial_closes() -> None:
    phones = (Phone("ɑː", 0.1, 0.3), Phone("m", 0.3, 0.38), Phone("ɑː", 0.38, 0.6), Phone("", 0.6, 0.9))
    parts = segments(Utterance(np.zeros(16000, np.float32), 16000, phones))
    times = np.arange(40) * 0.02
    jaw = mouth_track(parts, times)[:, JAW]
    assert jaw[10] > 0.3 and jaw[25] > 0.3
    assert jaw[17] < 0.12  # between two open vowels
    assert jaw[39] < 0.1
    assert [c for c, _, _ in parts if c in CLOSED] == [CLASS_INDEX["m"]]


def test_espeak_names_its_phones(capsys) -> None:
    pytest.importorskip("ctypes")
    from ctypes.util import find_library

    if find_library("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    from speech_corpus.espeak import Espeak

    said = Espeak().speak("Mama", "de", 150, 50, 50)
    parts = segments(said)
    assert [CLASSES[c] for c, _, _ in parts if c != CLASS_INDEX[SILENCE]] == ["m", "ɑ", "m", "ɑ"]
    assert parts[-1][2] == pytest.approx(len(said.samples) / said.rate, abs=0.05)
    starts = [start for _, start, _ in parts]
    assert starts == sorted(starts)
