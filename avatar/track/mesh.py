"""The 478-point face mesh: the mean head in head space and the named sets of points that the stage uses.

The mean head is MediaPipe's canonical face model (Google, Apache-2.0) with irises added, moved so that the origin
lies at the head's centre (roughly between the ear canals) instead of MediaPipe's.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int64, UInt16
from safetensors.numpy import load_file

DATA: Final = Path(__file__).parent / "data"

HEAD_CENTRE: Final = np.array([0.0, 1.5, -2.5])
"""Head-space origin in MediaPipe's canonical coordinates, cm: about the ear canals' height, where the neck ends."""

SKIN_POINTS: Final = 468
"""Points before the irises."""

# Person's right is image left of an unmirrored frame. Closed contours, in order.
INNER_LIPS: Final = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
OUTER_LIPS: Final = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
FACE_OVAL: Final = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
RIGHT_EYE: Final = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LEFT_EYE: Final = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
RIGHT_BROW: Final = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
LEFT_BROW: Final = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
RIGHT_IRIS: Final = (468, 469, 470, 471, 472)
LEFT_IRIS: Final = (473, 474, 475, 476, 477)
RIGID: Final = (
    10, 67, 109, 338, 297, 54, 284, 103, 332, 21, 251, 162, 389, 127, 356, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 33,
    133, 362, 263, 122, 351, 196, 419, 174, 399, 188, 412, 193, 417, 245, 465, 128, 357, 3, 248, 236, 456, 134, 363,
    198, 420, 51, 281, 45, 275,
)  # fmt: skip
"""Forehead, temples, nose and eye corners: skin over bone that expressions hardly move."""
CHIN: Final = 152


@lru_cache
def mean_head() -> Float[np.ndarray, "478 3"]:
    """The mean head in head space, cm."""
    return load_file(DATA / "mesh.safetensors")["canonical"].astype(np.float64) - HEAD_CENTRE


@lru_cache
def triangles() -> UInt16[np.ndarray, "T 3"]:
    """Triangles of the skin mesh (points 0..467)."""
    return load_file(DATA / "mesh.safetensors")["triangles"]


@lru_cache
def mirror_points() -> Int64[np.ndarray, " 478"]:
    """For each landmark the one on the other side of the face."""
    head = mean_head()
    return np.linalg.norm(head[:, None] - (head * [-1, 1, 1])[None], axis=-1).argmin(axis=1)


@lru_cache
def landmark_noise() -> Float[np.ndarray, " 478"]:
    """How far, relative to the steadiest points (1), detector and unexplained expression move each point."""
    noise = load_file(DATA / "mesh.safetensors").get("noise")
    if noise is None:
        noise = np.full(478, 4.0)
        noise[list(RIGID)] = 1.0
    return noise.astype(np.float64)
