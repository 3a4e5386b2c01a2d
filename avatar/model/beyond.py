"""Expression beyond the clip's own: what the limits cut off is handed to the geometric prior.

Within the clip's own motion the learned bases move everything and nothing here does anything. Beyond it the learned
bases stop (`limits`), and what they leave undone of each coefficient moves the Gaussians as landmarks move with that
coefficient in anyone's face: positions only, which holds however far a slider goes. The prior is kept at the landmarks
of this person (`field`, about `mesh`), carried to the Gaussians (`carry`) and cut to a few modes by a singular value
decomposition; a mode is one more motion basis, with positions alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar.conventions import BLENDSHAPES, LANDMARKS, MOUTH_INDICES
from avatar.model.anatomy import facial_motion, mean_mesh
from avatar.model.carry import LOWER_LIP, UPPER_LIP, carried_by_face, carried_in_mouth
from avatar.model.gaussians import Branch
from avatar.model.limits import soft_limit

MODES: Final = 24
"""They leave out 6 % of a coefficient's motion, 12 % at most (16: 20 and 57 %, and gaze goes half its way)."""
CARRIED: Final = {"face": carried_by_face, "mouth": carried_in_mouth}
"""The branches that the prior moves, and how."""
MOST: Final = 1.0
"""No coefficient asks for more than this beyond what the learned bases do: sliders end at 1."""
LIPS_CM: Final = (-1.0, 3.0)
LIPS_REACH: Final = 0.15
"""Sliders that open the lips add up to what no mouth does, and those that close them push one lip through the other.
Together they move the lips' middles this far towards or from each other, and a share of that range further at most."""


def person_prior(neutral: Float[np.ndarray, "478 3"], mean: Float[np.ndarray, " 52"]) -> Beyond:
    """The geometric prior about a person's mean expression.

    Args:
        neutral: the person's neutral head, head space, cm.
        mean: coefficients of the mean expression, which the canonical Gaussians show.
    """
    return Beyond(torch.from_numpy(mean_mesh(neutral, mean)), torch.from_numpy(facial_motion()))


class Beyond(nn.Module):
    """The geometric prior of one person, and how much of it a motion asks for."""

    mesh: Tensor
    field: Tensor
    mix: Tensor
    gram: Tensor
    opening: Tensor

    def __init__(self, mesh: Float[Tensor, "478 3"], field: Float[Tensor, "52 478 3"]) -> None:
        """Raises ValueError for other shapes.

        Args:
            mesh: landmarks of the mean expression, head space, cm.
            field: displacement of each landmark per unit of each coefficient, cm.
        """
        super().__init__()
        if tuple(mesh.shape) != (LANDMARKS, 3) or tuple(field.shape) != (len(BLENDSHAPES), LANDMARKS, 3):
            raise ValueError(f"the geometric prior has shapes {tuple(mesh.shape)} and {tuple(field.shape)}")
        self.register_buffer("mesh", mesh.float())
        self.register_buffer("field", field.half())
        self.register_buffer("mix", torch.zeros(len(BLENDSHAPES), MODES))
        self.register_buffer("gram", torch.zeros(0, 0))
        apart = (field[:, list(UPPER_LIP), 1].mean(dim=1) - field[:, list(LOWER_LIP), 1].mean(dim=1)).float()
        self.register_buffer("opening", torch.zeros(len(BLENDSHAPES)))
        self.opening[list(MOUTH_INDICES)] = apart[list(MOUTH_INDICES)]

    @torch.no_grad()
    def carry(self, branches: dict[str, Branch]) -> None:
        """Gives the branches of CARRIED the modes as further bases."""
        mesh, field = self.mesh.double().cpu().numpy(), self.field.double().cpu().numpy()
        fields = {n: by(branches[n].means.double().cpu().numpy(), mesh, field) for n, by in CARRIED.items()}
        whole = np.concatenate([f.reshape(len(field), -1) for f in fields.values()], axis=1)
        vectors, mix = _modes(whole)
        self.mix.copy_(torch.from_numpy(mix))
        modes = torch.from_numpy(vectors.astype(np.float32)).to(self.mix.device)
        sizes = [3 * branches[name].count for name in CARRIED]
        for name, part in zip(CARRIED, modes.split(sizes, dim=1), strict=True):
            branches[name].append_modes(part.view(MODES, -1, 3))
        face = branches["face"]
        moves = (face.bases[: face.basis_count] * face.basis_units)[..., :3].flatten(1)
        self.gram = moves @ moves.T

    def forward(
        self,
        wanted: Float[Tensor, "B 52"],
        heard: Float[Tensor, "B 52"],
        asked: Float[Tensor, "B K"],
        given: Float[Tensor, "B K"],
    ) -> Float[Tensor, "B M"]:
        """Weights of the modes: zero where no limit changed anything.

        Args:
            wanted: coefficients less the person's mean.
            heard: the same as far as the face's driver hears them, within the limits of its features.
            asked: weights of the face's bases that the driver gives for that.
            given: these weights as far as their limits let them.
        """
        # Of what the driver heard, the bases do this share: positions moved, along those that were asked for.
        along = asked @ self.gram
        lost = ((asked - given) * along).sum(1, keepdim=True) / (asked * along).sum(1, keepdim=True).clamp_min(1e-6)
        missing = wanted - (1 - lost.clamp(0, 1)) * heard
        return self._with_lips(missing.clamp(-MOST, MOST)) @ self.mix

    def _with_lips(self, missing: Float[Tensor, "B 52"]) -> Float[Tensor, "B 52"]:
        """Mouth and jaw all shortened alike where they would open or close the lips too far."""
        wide = missing @ self.opening[:, None]
        low, high = (wide.new_tensor([end]) for end in LIPS_CM)
        still = wide.abs() < 1e-6
        share = torch.where(still, 1.0, soft_limit(wide, low, high, LIPS_REACH) / wide.where(~still, wide.new_ones(())))
        mouth = torch.zeros_like(self.opening)
        mouth[list(MOUTH_INDICES)] = 1.0
        return missing * (1 + mouth * (share - 1))


def _modes(field: Float[np.ndarray, "C P"]) -> tuple[Float[np.ndarray, "M P"], Float[np.ndarray, "C M"]]:
    """Modes of unit mean square and the mix whose product with them is nearest to the field; motions of small parts of
    the face count as those of large ones."""
    size = np.linalg.norm(field, axis=1, keepdims=True)
    size = np.sqrt(np.maximum(size, 1e-3 * size.max()) + 1e-9)
    power, vectors = np.linalg.eigh((field / size) @ (field / size).T)
    lead = vectors[:, ::-1][:, :MODES]
    scale = np.sqrt(np.maximum(power[::-1][:MODES], 1e-9 * power[-1]) / field.shape[1])
    return lead.T @ (field / size) / scale[:, None], size * lead * scale
