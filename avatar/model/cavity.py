"""What shows behind the teeth when a mouth opens wider than in its clip: a dark curtain.

The mouth branch holds what the clip showed between the lips. Where they open further, lining and backdrop would show
through the gap. The curtain is gathered behind the skin above and below the mouth, where nothing shows it, and the
geometric prior draws it across the opening (`carry.carried_in_mouth`). Until it has met, a wall further back, drawn
last, keeps the backdrop out.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from avatar.model.beyond import person_prior
from avatar.model.carry import (
    CAVITY_DEPTH_CM,
    CURTAIN_ABOVE_CM,
    CURTAIN_BELOW_CM,
    CURTAIN_CM,
    CURTAIN_FALL,
    LOWER_LIP,
    UPPER_LIP,
)
from avatar.model.gaussians import Branch, joined
from avatar.model.model import AvatarModel
from avatar.track.mesh import INNER_LIPS
from avatar.types import Track

SPACING_CM = 0.35
"""Distance between neighbours at the widest opening."""
SIGMA_CM = 0.22
OPENING_CM = 3.5
"""As far apart as the geometric prior moves the lips."""
ASIDE_CM = 0.7
"""A mouth widens."""
DEEPER_CM = 0.5
"""Behind the foremost depth of what is curtain."""
WALL_DEPTH_CM = 7.0
"""Behind the lips: deeper than the lining, which the clip may show through parted lips."""
SKIN_LOGIT = 4.0
OPACITY_LOGIT = 5.0
COLOR = (0.13, 0.05, 0.05)
"""Of a mouth in the dark: hardly any light comes back out, and what does is red."""


def add_prior(model: AvatarModel, track: Track) -> None:
    """Lets a fitted model show what its clip did not, by the geometric prior and with a cavity behind its teeth; in
    place, as the last step of a fit."""
    beyond = person_prior(track.neutral, model.features.coefficient_mean.cpu().numpy())
    add_cavity(model, beyond.mesh.numpy())
    model.extend(beyond)


@torch.no_grad()
def add_cavity(model: AvatarModel, mesh: Float[np.ndarray, "478 3"]) -> None:
    """Hangs curtain and wall into a fitted model, in place.

    Args:
        mesh: landmarks of the mean expression, head space, cm.
    """
    for name, points in (("mouth", _curtain(mesh)), ("torso", _wall(mesh))):
        branch = model.branch(name)
        dark = Branch(len(points), branch.basis_count).to(branch.means.device)
        dark.means.copy_(torch.from_numpy(points))
        dark.log_scales.fill_(float(np.log(SIGMA_CM)))
        dark.colors.copy_(torch.tensor(COLOR))
        dark.opacity_logits.fill_(OPACITY_LOGIT)
        dark.skin_logits.fill_(SKIN_LOGIT)
        model.branches[name] = joined(branch, dark)


def _curtain(mesh: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "P 3"]:
    """Rows above the mouth and below it, as many as the widest opening takes."""
    top, bottom = mesh[list(UPPER_LIP), 1].mean(), mesh[list(LOWER_LIP), 1].mean()
    count = round(OPENING_CM / SPACING_CM)
    above = np.linspace(top + CURTAIN_ABOVE_CM, top + CURTAIN_ABOVE_CM + CURTAIN_CM, round(CURTAIN_FALL * count))
    below = np.linspace(bottom - CURTAIN_BELOW_CM, bottom - CURTAIN_BELOW_CM - CURTAIN_CM, count)
    return _sheet(mesh, np.concatenate([above, below]), CAVITY_DEPTH_CM + DEEPER_CM)


def _wall(mesh: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "P 3"]:
    """Rows from the upper lip down to where the lower one may go."""
    top, bottom = mesh[list(UPPER_LIP), 1].mean(), mesh[list(LOWER_LIP), 1].mean()
    return _sheet(mesh, np.arange(top, bottom - OPENING_CM, -SPACING_CM), WALL_DEPTH_CM)


def _sheet(
    mesh: Float[np.ndarray, "478 3"], rows: Float[np.ndarray, " R"], depth_cm: float
) -> Float[np.ndarray, "P 3"]:
    """Points at some heights, from beyond one corner of the mouth to beyond the other, at a depth behind the lips."""
    lips = mesh[list(INNER_LIPS)]
    left, right = lips[:, 0].min() - ASIDE_CM, lips[:, 0].max() + ASIDE_CM
    x, y = np.meshgrid(np.arange(left, right + SPACING_CM, SPACING_CM), rows)
    return np.stack([x, y, np.full(x.shape, lips[:, 2].mean() - depth_cm)], axis=-1).reshape(-1, 3)
