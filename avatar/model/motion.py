"""What drives the motion (coefficients, poses, appearance codes; normalised), and the `basis` motion field."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from avatar.conventions import BRANCHES, CODES, MOUTH_INDICES
from avatar.dataset import MotionBatch
from avatar.model.lids import as_lids_close, checked_lids, measure_lids
from avatar.model.limits import soft_limit

COEFFICIENT_FLOOR = 0.05
"""Smallest standard deviation by which a coefficient is divided: a coefficient that the clip hardly showed must not
become a loud driver of noise."""
MOVED_FLOOR = 0.01
"""Standard deviation below which the clip does not move a coefficient: less than a tracker's jitter."""
ROTATION_UNIT = 0.15
"""Radians; a typical head turn."""
POSITION_FLOOR_CM = 0.5
CODE_RIDGE = 10.0
"""Of the regression of appearance codes on the motion, in frames."""
CODE_REACH = 0.1
"""How far beyond their range in the clip the likeliest codes go at most, as a share of its width."""

SIZES = {
    "coefficients": 52, "mouth_coefficients": len(MOUTH_INDICES),
    "head_rotation": 3, "head_motion": 3, "torso_motion": 6, **CODES,
}  # fmt: skip
BRANCH_FEATURES = {
    "face": ("coefficients", "head_rotation", "head_codes", "mouth_codes"),
    "mouth": ("mouth_coefficients", "head_rotation"),
    "torso": ("torso_motion", "head_rotation", "head_motion", "torso_codes"),
}
"""What each branch listens to; coefficients come first, and codes only where the track has them."""
CODE_DRIVERS = ("coefficients", "head_rotation", "head_motion", "torso_motion")
"""What the likeliest codes of a motion follow from."""


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
    code_mean: Tensor | None
    code_map: Tensor | None
    """From CODE_DRIVERS to the likeliest codes (C, D), less their mean."""
    code_range: Tensor | None
    """Between which the likeliest codes lie in the clip (2, C): a head that turns further looks no further from its
    mean. These three are None where the track has no codes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coefficient_mean", torch.zeros(52))
        self.register_buffer("coefficient_std", torch.ones(52))
        self.register_buffer("mean_head", torch.eye(3, 4))
        self.register_buffer("mean_torso", torch.eye(3, 4))
        self.register_buffer("head_std", torch.ones(3))
        self.register_buffer("torso_std", torch.ones(3))
        for name in ("lids", "code_mean", "code_map", "code_range"):
            self.register_buffer(name, None)

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
        if motion.codes is not None:
            features._learn_codes(motion.to("cpu"), motion.codes.cpu())
        return features

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> DriverFeatures:
        """Back from `state_dict`.

        Raises:
            RuntimeError, ValueError: something is missing, unknown or of another shape.
        """
        features = cls()
        if (lids := tensors.get("lids")) is not None:
            features.lids = checked_lids(lids)
        if "code_map" in tensors:
            codes, drivers = sum(CODES.values()), sum(SIZES[name] for name in CODE_DRIVERS)
            features.code_mean, features.code_map = torch.zeros(codes), torch.zeros(codes, drivers)
            features.code_range = torch.zeros(2, codes)
        features.load_state_dict(tensors)
        return features

    def _learn_codes(self, motion: MotionBatch, codes: Float[Tensor, "B C"]) -> None:
        """Mean of the codes, and their linear regression on the motion that they come with."""
        drivers = self._code_drivers(self._parts(motion))
        heard = drivers.double()
        heard[:, : SIZES["coefficients"]][:, _still(motion)] = 0.0
        unit = heard.std(0, unbiased=False).clamp_min(1e-3)
        heard = heard / unit
        self.code_mean = codes.mean(0)
        ridge = CODE_RIDGE * torch.eye(heard.shape[1], dtype=heard.dtype)
        found = torch.linalg.solve(heard.T @ heard + ridge, heard.T @ (codes - self.code_mean).double())
        answers = (found / unit[:, None]).to(drivers)
        self.code_map = answers.T.contiguous()
        usual = drivers @ answers
        self.code_range = torch.stack([usual.amin(0), usual.amax(0)])

    def measure_lids(self, motion: MotionBatch) -> None:
        """Takes how the eyes close from the clip's own motion, when training is over."""
        self.lids = measure_lids(motion.coefficients)

    def width(self, branch: str) -> int:
        """Number of features that a branch listens to."""
        return sum(SIZES[name] for name in self.heard(branch))

    def heard(self, branch: str) -> tuple[str, ...]:
        """What a branch listens to, of BRANCH_FEATURES."""
        return tuple(n for n in BRANCH_FEATURES[branch] if self.code_map is not None or n not in CODES)

    def unmoved(self, branch: str, motion: MotionBatch) -> Bool[Tensor, " D"]:
        """Which of a branch's features are coefficients that the clip (`motion`) never moves."""
        still = _still(motion)
        parts = {"coefficients": still, "mouth_coefficients": still[list(MOUTH_INDICES)]}
        known = [parts[name] for name in self.heard(branch) if name in parts]
        moved = torch.zeros(self.width(branch) - sum(len(part) for part in known), dtype=torch.bool)
        return torch.cat([*known, moved])

    def forward(self, motion: MotionBatch) -> dict[str, Float[Tensor, "B D"]]:
        """Features per branch, zero-mean, about unit size. Codes that the motion does not have are the likeliest."""
        parts = self._parts(motion)
        if self.code_mean is not None:
            codes = self._likeliest(parts) if motion.codes is None else motion.codes - self.code_mean
            parts |= dict(zip(CODES, codes.split(list(CODES.values()), dim=1), strict=True))
        return {b: torch.cat([parts[name] for name in self.heard(b)], dim=-1) for b in BRANCHES}

    def likeliest_codes(self, motion: MotionBatch) -> Float[Tensor, "B C"] | None:
        """Appearance codes that most likely go with a motion; None where the avatar has none."""
        return None if self.code_mean is None else self._likeliest(self._parts(motion)) + self.code_mean

    def _likeliest(self, parts: dict[str, Tensor]) -> Float[Tensor, "B C"]:
        assert self.code_map is not None and self.code_range is not None
        low, high = self.code_range
        return soft_limit(self._code_drivers(parts) @ self.code_map.T, low, high, CODE_REACH)

    @staticmethod
    def _code_drivers(parts: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        return torch.cat([parts[name] for name in CODE_DRIVERS], dim=-1)

    def _parts(self, motion: MotionBatch) -> dict[str, Tensor]:
        """What follows from coefficients and poses."""
        driven = motion.coefficients if self.lids is None else as_lids_close(motion.coefficients, self.lids)
        coefficients = (driven - self.coefficient_mean) / self.coefficient_std
        head, torso = motion.camera_from_head, motion.camera_from_torso
        torso_turn = rotation_vector(torso[:, :, :3] @ self.mean_torso[:, :3].T) / ROTATION_UNIT
        torso_shift = (torso[:, :, 3] - self.mean_torso[:, 3]) / self.torso_std
        return {
            "coefficients": coefficients,
            "mouth_coefficients": coefficients[:, list(MOUTH_INDICES)],
            "head_rotation": rotation_vector(head[:, :, :3] @ self.mean_head[:, :3].T) / ROTATION_UNIT,
            "head_motion": (head[:, :, 3] - self.mean_head[:, 3]) / self.head_std,
            "torso_motion": torch.cat([torso_turn, torso_shift], dim=-1),
        }


def _still(motion: MotionBatch) -> Bool[Tensor, " 52"]:
    """Which coefficients a clip never moves."""
    return motion.coefficients.std(0, unbiased=False).cpu() < MOVED_FLOOR


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

    @torch.no_grad()
    def fade(self, share: float) -> None:
        """Takes a share of all weights away (decoupled weight decay), but for those of the held features, which could
        not learn them again."""
        for parameter in (self.linear.weight, self.hidden.weight):
            parameter.mul_(torch.where(self.held, 1.0, 1.0 - share))
        for parameter in (self.hidden.bias, self.out.weight):
            parameter.mul_(1.0 - share)

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Basis weights, about unit size for the clip's own motion."""
        at_zero = torch.tanh(self.hidden.bias)
        linear = torch.where(self.held, self.linear.weight.detach(), self.linear.weight)
        hidden = torch.where(self.held, self.hidden.weight.detach(), self.hidden.weight)
        inner = torch.tanh(functional.linear(features, hidden, self.hidden.bias)) - at_zero
        return functional.linear(features, linear) + self.out(inner)
