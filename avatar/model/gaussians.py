"""One branch of the avatar: canonical 3D Gaussians in head space and their linear motion bases.

`attributes_i(driver) = canonical_i + sum_k w_k(driver) B_ki`, over position, rotation, scale, colour and opacity
(linear bases as in RGBAvatar, Li et al. CVPR 2025, there over position, rotation and colour).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar.raster import MovingGaussians, animate

# Column layout of a basis: what it is added to, how many numbers, and the unit in which it is learned. One learning
# rate serves all columns because each is stored in the unit of a typical motion.
BASIS_COLUMNS = (
    ("means", 3, 0.05),  # cm
    ("quats", 4, 0.05),
    ("log_scales", 3, 0.1),
    ("colors", 3, 0.05),
    ("opacity_logits", 1, 0.3),
)
BASIS_WIDTH = sum(width for _, width, _ in BASIS_COLUMNS)
BASIS_UNITS = tuple(unit for _, width, unit in BASIS_COLUMNS for _ in range(width))
CANONICAL = ("means", "quats", "log_scales", "colors", "opacity_logits", "skin_logits")


@dataclass(frozen=True)
class GaussianBatch:
    """Deformed Gaussians of a batch of frames, canonical space (skinning happens in the rasterizer)."""

    means: Float[Tensor, "B N 3"]
    quats: Float[Tensor, "B N 4"]
    log_scales: Float[Tensor, "B N 3"]
    colors: Float[Tensor, "B N 3"]
    opacity_logits: Float[Tensor, "B N"]
    skin: Float[Tensor, " N"]
    """1 = carried by the head, 0 = by the torso."""


@dataclass(frozen=True)
class GaussianInit:
    """Where a branch starts."""

    means: Float[Tensor, "N 3"]
    """cm, head space."""
    log_scales: Float[Tensor, "N 3"]
    colors: Float[Tensor, "N 3"]
    skin_logits: Float[Tensor, " N"]


class Branch(nn.Module):
    """Gaussians with K motion bases. Parameters are named as in the field and live in head space."""

    basis_units: Tensor

    def __init__(self, count: int, bases: int) -> None:
        super().__init__()
        self.mode_count = 0
        """How many of the last bases are modes of the geometric prior, see `append_modes`."""
        self.means = nn.Parameter(torch.zeros(count, 3))
        self.quats = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1))
        self.log_scales = nn.Parameter(torch.zeros(count, 3))
        self.colors = nn.Parameter(torch.zeros(count, 3))
        self.opacity_logits = nn.Parameter(torch.zeros(count))
        self.skin_logits = nn.Parameter(torch.zeros(count))
        # (K, N, BASIS_WIDTH) in units of BASIS_UNITS: one row per basis, so that blending is one matrix product.
        self.bases = nn.Parameter(torch.zeros(bases, count, BASIS_WIDTH))
        self.register_buffer("basis_units", torch.tensor(BASIS_UNITS), persistent=False)

    @classmethod
    def from_init(cls, init: GaussianInit, bases: int, opacity: float = 0.7) -> Branch:
        """A branch at its start: round Gaussians, no motion."""
        branch = cls(init.means.shape[0], bases)
        with torch.no_grad():
            branch.means.copy_(init.means)
            branch.log_scales.copy_(init.log_scales)
            branch.colors.copy_(init.colors)
            branch.skin_logits.copy_(init.skin_logits)
            branch.opacity_logits.fill_(float(torch.logit(torch.tensor(opacity))))
        return branch

    @property
    def count(self) -> int:
        return self.means.shape[0]

    @property
    def basis_count(self) -> int:
        """Learned bases."""
        return self.bases.shape[0] - self.mode_count

    @property
    def learned(self) -> Float[Tensor, "K N 14"]:
        """The learned bases."""
        return self.bases[: self.basis_count]

    @torch.no_grad()
    def append_modes(self, modes: Float[Tensor, "M N 3"]) -> None:
        """Adds bases that move positions alone, cm per unit weight, in place of such bases added before."""
        bases = torch.zeros(self.basis_count + len(modes), *self.bases.shape[1:]).to(self.bases)
        bases[: self.basis_count] = self.learned
        bases[self.basis_count :, :, :3] = modes / self.basis_units[:3]
        self.bases, self.mode_count = nn.Parameter(bases, self.bases.requires_grad), len(modes)

    def moving(self, weights: Float[Tensor, "B W"]) -> MovingGaussians:
        """The branch as the rasterizer draws it.

        Args:
            weights: of the learned bases, then of the modes.
        """
        bases, learned = self.bases, self.basis_count
        if self.mode_count and not weights.is_cuda and not bool(weights[:, learned:].any()):
            # most frames lie within the clip's own motion; a GPU would have to be asked, which costs it more
            bases, weights = bases[:learned], weights[:, :learned]
        return MovingGaussians(
            self.means, self.quats, self.log_scales, self.opacity_logits, self.colors, self.skin_logits, bases, weights
        )

    def forward(self, weights: Float[Tensor, "B W"]) -> GaussianBatch:
        """Gaussians moved by the weights of `moving`, for export and inspection; zero gives the canonical ones."""
        means, quats, log_scales, opacity_logits, colors = animate(self.moving(weights), self.basis_units)
        return GaussianBatch(means, quats, log_scales, colors, opacity_logits, torch.sigmoid(self.skin_logits))


def joined(first: Branch, second: Branch) -> Branch:
    """One branch of the Gaussians of two with as many bases."""
    both = Branch(first.count + second.count, first.basis_count).to(first.means.device)
    with torch.no_grad():
        for name, parameter in both.named_parameters():
            parts = [getattr(branch, name) for branch in (first, second)]
            parameter.copy_(torch.cat(parts, dim=1 if name == "bases" else 0))
    return both.eval().requires_grad_(False)
