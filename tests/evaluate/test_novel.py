"""The sheet of what the clip never showed: how far beyond, and which expressions."""

from __future__ import annotations

import numpy as np
import pytest

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.evaluate.novel import EXPRESSIONS, SHOWN_EXPRESSIONS, novel_angles, novel_expressions


def test_turns_start_where_the_clip_ends():
    angles = np.zeros((1001, 3))
    angles[:, 0] = np.radians(np.linspace(-5, 15, 1001))
    angles[3, 1] = np.radians(70)  # one frame tracked wrongly
    found = {label: (np.degrees(angle), axis, detail) for label, detail, axis, angle in novel_angles(angles)}
    assert len(found) == 8
    yaws = sorted(angle for angle, axis, _ in found.values() if axis == 0)
    assert yaws == pytest.approx([-24.8, -14.8, 24.8, 34.8], abs=0.01)
    assert found["turned right 25°"][2] == "10° beyond the clip"
    pitches = sorted(angle for angle, axis, _ in found.values() if axis == 1)
    assert pitches == pytest.approx([-20, -10, 10, 20], abs=0.5)


def test_expressions_that_the_clip_showed_least_come_first():
    coefficients = np.zeros((30, 52))
    for name in ("mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "mouthFunnel"):
        coefficients[10, BLENDSHAPE_INDEX[name]] = 0.9
    coefficients[20, BLENDSHAPE_INDEX["browInnerUp"]] = 0.8  # never together with the outer brows
    found = novel_expressions(coefficients)
    names = [name for name, _ in found]
    assert len(found) == SHOWN_EXPRESSIONS
    assert not {"smile", "eyes closed", "one eye closed", "jaw open", "funnel"} & set(names)
    assert dict(found)["brows up"] == 0.0
    assert all(name in BLENDSHAPE_INDEX for names in EXPRESSIONS.values() for name in names)
