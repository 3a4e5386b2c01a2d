"""What shows behind the teeth when a mouth opens wider than in its clip: a dark curtain.

The mouth branch holds what the clip showed between the lips. Where they open further, lining and backdrop would show
through the gap. The curtain hangs behind the teeth, from behind one lip to behind the other, and widens with them
(`carry.carried_in_mouth`); within the clip's own motion lips and teeth hide it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from avatar.model.beyond import person_prior
from avatar.model.carry import CAVITY_DEPTH_CM, LOWER_LIP, UPPER_LIP
from avatar.model.gaussians import Branch, joined
from avatar.model.model import AvatarModel
from avatar.track.mesh import INNER_LIPS
from avatar.types import Track

SPACING_CM = 0.4
"""Distance between neighbours at the widest opening."""
SIGMA_CM = 0.3
OPENING_CM = 3.5
"""As far apart as the geometric prior moves the lips."""
BEHIND_LIPS_CM = 1.2
"""How far the curtain reaches behind either lip at rest: learned motion opens the lips too, and does not move it."""
DEEPER_CM = 0.5
"""Behind the foremost depth of what spans the opening."""
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
    """Hangs the curtain into a fitted model, in place.

    Args:
        mesh: landmarks of the mean expression, head space, cm.
    """
    mouth = model.branch("mouth")
    points = _curtain(mesh)
    curtain = Branch(len(points), mouth.basis_count).to(mouth.means.device)
    curtain.means.copy_(torch.from_numpy(points))
    curtain.log_scales.fill_(float(np.log(SIGMA_CM)))
    curtain.colors.copy_(torch.tensor(COLOR))
    curtain.opacity_logits.fill_(OPACITY_LOGIT)
    curtain.skin_logits.fill_(SKIN_LOGIT)
    model.branches["mouth"] = joined(mouth, curtain)


def _curtain(mesh: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "P 3"]:
    """Rows from behind the upper lip to behind the lower one; those in between are for the opening."""
    lips = mesh[list(INNER_LIPS)]
    left, right = lips[:, 0].min(), lips[:, 0].max()
    top, bottom = mesh[list(UPPER_LIP), 1].mean(), mesh[list(LOWER_LIP), 1].mean()
    behind = np.arange(SPACING_CM, BEHIND_LIPS_CM + 1e-6, SPACING_CM)
    rows = np.concatenate([top + behind, np.linspace(top, bottom, round(OPENING_CM / SPACING_CM)), bottom - behind])
    columns = np.arange(left, right + SPACING_CM, SPACING_CM)
    x, y = np.meshgrid(columns, rows)
    z = np.full(x.shape, lips[:, 2].mean() - CAVITY_DEPTH_CM - DEEPER_CM)
    return np.stack([x, y, z], axis=-1).reshape(-1, 3)
