"""The geometric prior: how the landmarks move in head space with each coefficient.

Regressed by `scripts/train_coefficient_solver.py` from tracked landmarks and the teacher's coefficients.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file

from avatar.conventions import BLENDSHAPES, LANDMARKS
from avatar.track.mesh import DATA

PRIOR_FILE = "landmark_prior.safetensors"


@lru_cache
def landmark_prior() -> Float32[np.ndarray, "52 478 3"]:
    """Displacement of each head-space landmark per unit coefficient, cm; zero where it could not be observed."""
    stored = load_file(DATA / PRIOR_FILE)["displacement"].astype(np.float32)
    if stored.shape != (len(BLENDSHAPES), LANDMARKS, 3):
        raise ValueError(f"{PRIOR_FILE} has the wrong shape {stored.shape}")
    stored.flags.writeable = False
    return stored
