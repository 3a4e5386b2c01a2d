"""The player in a real browser, against what Python draws, hears and says."""

from __future__ import annotations

import numpy as np
import pytest

import avatar
from avatar.conventions import BLENDSHAPE_INDEX
from avatar.evaluate.metrics import psnr
from avatar.export import ExportOptions, export
from avatar.model import Avatar
from avatar.speech.person import poses_from_offsets
from avatar.types import Motion

EXPRESSIONS = (
    {},
    {"jawOpen": 0.5, "mouthLowerDownLeft": 0.3},
    {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "cheekSquintLeft": 0.3},
    {"eyeBlinkLeft": 0.9, "eyeBlinkRight": 0.9, "browInnerUp": 0.1},
    {"mouthPucker": 0.4, "mouthFunnel": 0.3, "jawOpen": 0.2},
)
OFFSETS = np.array([
    [0, 0, 0, 0, 0, 0], [0.1, 0.15, 0, 1, 0, 0], [-0.1, -0.2, 0.05, -1, 0.5, 1], [0, 0.1, -0.1, 0, 0, -2],
    [0.15, 0, 0, 0, 1, 0],
], np.float64)  # fmt: skip
"""Head turns (rad) and shifts (cm) from the person's neutral pose; the torso goes a third of the way."""


def test_motion(someone: Avatar) -> Motion:
    """Five expressions and poses; what is not named rests."""
    motion = someone.rest_motion(np.arange(len(EXPRESSIONS)) / 25)
    coefficients = motion.coefficients.copy()
    for row, named in zip(coefficients, EXPRESSIONS, strict=True):
        for name, value in named.items():
            row[BLENDSHAPE_INDEX[name]] = value
    return Motion(
        motion.times,
        coefficients,
        poses_from_offsets(OFFSETS, someone.person.neutral_head),
        poses_from_offsets(OFFSETS / 3, someone.person.neutral_torso),
    )


test_motion.__test__ = False
