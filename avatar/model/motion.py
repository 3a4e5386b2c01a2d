"""What drives the motion (coefficients and poses, normalised), and the `basis` motion field: linear bases, weighted."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from avatar.conventions import BRANCHES, MOUTH_INDICES
from avatar.dataset import MotionBatch
from avatar.model.lids import as_lids_close, measure_lids

COEFFICIENT_FLOOR = 0.05
"""Smallest standard deviation by which a coefficient is divided: a coefficient that the clip hardly showed must not
become a loud driver of noise."""
MOVED_FLOOR = 0.01
"""Standard deviation below which the clip does not move a coefficient: less than a tracker's jitter."""
ROTATION_UNIT = 0.15
"""Radians; a typical head turn."""
POSITION_FLOOR_CM = 0.5

# What each branch listens to.
BRANCH_FEATURES = {
    "face": ("coefficients", "head_rotation"),
    "mouth": ("mouth_coefficients", "head_rotation"),
    "torso": ("torso_motion", "head_rotation", "head_motion"),
}


def rotation_vector(rotation: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3"]:
    """Rotation vector of rotations below about 120 degrees, from the antisymmetric part (smooth at the identity)."""
    vee = torch.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        dim=-1,
    )
    # |vee| = 2 sin(angle); a driver needs a smooth monotone function of the angle, not the angle itself.
    return 0.5 * vee


class DriverFeatures(nn.Module):
    """Normalises a motion against the person's own statistics: zero is their mean expression in their mean pose."""

    coefficient_mean: Tensor
    coefficient_std: Tensor
    mean_head: Tensor
    mean_torso: Tensor
    head_std: Tensor
    torso_std: Tensor
    lids: Tensor | None
    """How the eyes close, see `lids`; None until training is over, in early files, and where the clip shows none."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coefficient_mean", torch.zeros(52))
        self.register_buffer("coefficient_std", torch.ones(52))
        self.register_buffer("mean_head", torch.eye(3, 4))
        self.register_buffer("mean_torso", torch.eye(3, 4))
        self.register_buffer("head_std", torch.ones(3))
        self.register_buffer("torso_std", torch.ones(3))
        self.register_buffer("lids", None)

    @classmethod
    def from_motion(cls, motion: MotionBatch) -> DriverFeatures:
        """Statistics of the training frames."""
        features = cls()
        features.coefficient_mean.copy_(motion.coefficients.mean(0))
        features.coefficient_std.copy_(motion.coefficients.std(0, unbiased=False).clamp_min(COEFFICIENT_FLOOR))
        for name, poses in (("head", motion.camera_from_head), ("torso", motion.camera_from_torso)):
            mean = poses.mean(0)
            u, _, vt = torch.linalg.svd(mean[:, :3])
            mean_rotation = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt))]).to(u)) @ vt
            getattr(features, f"mean_{name}").copy_(torch.cat([mean_rotation, mean[:, 3:]], dim=1))
            spread = poses[:, :, 3].std(0, unbiased=False).clamp_min(POSITION_FLOOR_CM)
            getattr(features, f"{name}_std").copy_(spread)
        return features

    def measure_lids(self, motion: MotionBatch) -> None:
        """Takes how the eyes close from the clip's own motion, when training is over."""
        self.lids = measure_lids(motion.coefficients)

    def width(self, branch: str) -> int:
        """Number of features that a branch listens to."""
        sizes = {
            "coefficients": 52,
            "mouth_coefficients": len(MOUTH_INDICES),
            "head_rotation": 3,
            "head_motion": 3,
            "torso_motion": 6,
        }
        return sum(sizes[name] for name in BRANCH_FEATURES[branch])

    def unmoved(self, branch: str, motion: MotionBatch) -> Bool[Tensor, " D"]:
        """Which of a branch's features are coefficients that the clip (`motion`) never moves."""
        still = motion.coefficients.std(0, unbiased=False).cpu() < MOVED_FLOOR
        parts = {"coefficients": still, "mouth_coefficients": still[list(MOUTH_INDICES)]}
        names = BRANCH_FEATURES[branch]
        known = [parts[name] for name in names if name in parts]
        moved = torch.zeros(self.width(branch) - sum(len(part) for part in known), dtype=torch.bool)
        return torch.cat([*known, moved])  # coefficients come first in every branch

    def forward(self, motion: MotionBatch) -> dict[str, Float[Tensor, "B D"]]:
        """Features per branch, zero-mean, about unit size."""
        driven = motion.coefficients if self.lids is None else as_lids_close(motion.coefficients, self.lids)
        coefficients = (driven - self.coefficient_mean) / self.coefficient_std
        head, torso = motion.camera_from_head, motion.camera_from_torso
        torso_turn = rotation_vector(torso[:, :, :3] @ self.mean_torso[:, :3].T) / ROTATION_UNIT
        torso_shift = (torso[:, :, 3] - self.mean_torso[:, 3]) / self.torso_std
        parts = {
            "coefficients": coefficients,
            "mouth_coefficients": coefficients[:, list(MOUTH_INDICES)],
            "head_rotation": rotation_vector(head[:, :, :3] @ self.mean_head[:, :3].T) / ROTATION_UNIT,
            "head_motion": (head[:, :, 3] - self.mean_head[:, 3]) / self.head_std,
            "torso_motion": torch.cat([torso_turn, torso_shift], dim=-1),
        }
        return {b: torch.cat([parts[name] for name in BRANCH_FEATURES[b]], dim=-1) for b in BRANCHES}


class BasisWeights(nn.Module):
    """`w(d) = L d + mlp(d) - mlp(0)`: zero for the zero driver, so the mean motion shows the canonical Gaussians."""

    held: Tensor

    def __init__(self, features: int, bases: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, bases, bias=False)
        self.hidden = nn.Linear(features, hidden)
        self.out = nn.Linear(hidden, bases, bias=False)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.normal_(self.hidden.weight, std=features**-0.5)
        nn.init.zeros_(self.hidden.bias)
        nn.init.normal_(self.out.weight, std=0.1 * hidden**-0.5)

        self.register_buffer("held", torch.zeros(features, dtype=torch.bool), persistent=False)

    def hold(self, columns: Bool[Tensor, " D"]) -> None:
        """Features that the clip never moves drive nothing, but for what a geometric prior gives them afterwards, and
        learn nothing: their gradients are noise, which Adam would turn into full steps, and a slider at the far end of
        such a coefficient would show tens of times that noise."""
        self.held = columns.to(self.linear.weight.device)
        with torch.no_grad():
            self.linear.weight[:, self.held] = 0.0
            self.hidden.weight[:, self.held] = 0.0

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Basis weights, about unit size for the clip's own motion."""
        at_zero = torch.tanh(self.hidden.bias)
        linear = torch.where(self.held, self.linear.weight.detach(), self.linear.weight)
        hidden = torch.where(self.held, self.hidden.weight.detach(), self.hidden.weight)
        inner = torch.tanh(functional.linear(features, hidden, self.hidden.bias)) - at_zero
        return functional.linear(features, linear) + self.out(inner)
