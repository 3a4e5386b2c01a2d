"""How anyone's face moves with each coefficient: what could be regressed from tracked faces, and the rest by anatomy.

The landmark prior knows nothing of coefficients that its teacher never gives (cheekPuff, cheekSquint, jawForward,
noseSneer): there the landmarks move as the muscles pull, in bumps of about the size that the rest of the prior has. For
widened eyes the teacher answers weakly, and a straight line through its answers lifts the lids twice as far as lids go.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.track.mesh import mean_head
from avatar.track.prior import landmark_prior

BUMPS: Final = {
    # levator labii superioris alaeque nasi: the wing of the nose and the lip below it rise
    "noseSneerLeft": (((358, 1.1), (0.05, 0.4, 0.1)), ((391, 0.9), (0.0, 0.25, 0.05))),
    "noseSneerRight": (((129, 1.1), (-0.05, 0.4, 0.1)), ((165, 0.9), (0.0, 0.25, 0.05))),
    # orbicularis oculi, outer part: the cheek rises below the eye
    "cheekSquintLeft": (((347, 1.6), (0.0, 0.4, 0.15)),),
    "cheekSquintRight": (((118, 1.6), (0.0, 0.4, 0.15)),),
    # air behind buccinator
    "cheekPuff": (((411, 2.0), (0.8, 0.0, 0.5)), ((187, 2.0), (-0.8, 0.0, 0.5))),
}
"""Coefficient -> bumps: landmark at the centre and radius (standard deviation, cm), displacement there (cm)."""
JAW_FORWARD_CM: Final = 0.8
LID_SHARE: Final = 0.5
"""Of the regressed motion of `eyeWide`: lids rise by 3 mm."""


def facial_motion() -> Float[np.ndarray, "52 478 3"]:
    """Displacement of each head-space landmark per unit coefficient, cm; zero for the tongue alone."""
    field, head = landmark_prior().astype(np.float64), mean_head()
    for name, bumps in BUMPS.items():
        for (centre, radius), displacement in bumps:
            near = np.exp(-0.5 * ((head - head[centre]) ** 2).sum(axis=1) / radius**2)
            field[BLENDSHAPE_INDEX[name]] += near[:, None] * np.array(displacement)
    fall = np.linalg.norm(field[BLENDSHAPE_INDEX["jawOpen"]], axis=1)  # where the jaw is, and how much of it
    field[BLENDSHAPE_INDEX["jawForward"], :, 2] += JAW_FORWARD_CM * fall / fall.max()
    field[[name.startswith("eyeWide") for name in BLENDSHAPES]] *= LID_SHARE
    return field


def mean_mesh(neutral: Float[np.ndarray, "478 3"], mean: Float[np.ndarray, " 52"]) -> Float[np.ndarray, "478 3"]:
    """Landmarks of a person's mean expression, which the canonical Gaussians show, head space, cm.

    Args:
        neutral: the person's neutral head, head space, cm.
        mean: coefficients of the mean expression.
    """
    return neutral + np.einsum("c,cld->ld", mean, facial_motion())
