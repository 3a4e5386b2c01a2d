"""The `hashgrid` motion field: from where a Gaussian is and what drives the frame to how it changes.

As TalkingGaussian (Li et al. 2024, section 3.2) describes it: the canonical position is hash-encoded on three planes;
an attention vector from that encoding weighs the driver channel by channel, so that each region of the face listens to
what moves it (region attention, ER-NeRF, Li et al. 2023, section 3.3); an MLP maps encoding and attended driver to
changes of position, rotation, scale, and here of colour and opacity too. Being a function of position, it needs nothing
when Gaussians are split or moved.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar.model.gaussians import BASIS_WIDTH, Branch
from avatar.model.hash_encoding import ENCODING_WIDTH, TriPlaneHash, tri_plane
from avatar.raster import MovingGaussians

CHANNELS = 32
"""Of the driver, what attention weighs."""
HIDDEN = 64
MARGIN = 1.1
"""Size of the encoded cube over the extent of the Gaussians it starts with."""


class HashField(nn.Module):
    """Offsets of every Gaussian for every frame; zero at the start, whatever the table and the driver hold."""

    centre: Tensor
    side: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("side", torch.ones(1))
        self.encoding: nn.Module = TriPlaneHash()
        self.listen = nn.Linear(features, CHANNELS, bias=False)
        self.attention = nn.Sequential(
            nn.Linear(ENCODING_WIDTH, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, CHANNELS), nn.Sigmoid()
        )
        self.of_place = nn.Linear(ENCODING_WIDTH, HIDDEN)
        self.of_driver = nn.Linear(CHANNELS, HIDDEN, bias=False)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        self.out = nn.Linear(HIDDEN, BASIS_WIDTH, bias=False)
        nn.init.zeros_(self.out.weight)

    @torch.no_grad()
    def place(self, means: Float[Tensor, "N 3"], device: torch.device) -> None:
        """Puts the encoded cube around these positions and the field on the device, with the encoding that is fastest
        there."""
        low, high = means.amin(0), means.amax(0)
        self.centre.copy_((low + high) / 2)
        self.side.copy_((high - low).amax().clamp_min(1e-3) * MARGIN)
        self.encoding = tri_plane(device)
        self.to(device)

    def forward(self, means: Float[Tensor, "N 3"], features: Float[Tensor, "B D"]) -> Float[Tensor, "B N 14"]:
        """Offsets in BASIS_UNITS, for canonical positions (cm) and driver features."""
        encoded = self.encoding((means - self.centre) / self.side + 0.5)
        attended = self.attention(encoded) * self.listen(features)[:, None]
        return self.out(self.mlp(self.of_place(encoded) + self.of_driver(attended)))

    def moving(self, branch: Branch, features: Float[Tensor, "B D"]) -> MovingGaussians:
        """A branch as the rasterizer draws it: each frame's offsets are a basis that only this frame has.

        The positions pass no gradient: a Gaussian goes where the picture needs it, not where a motion suits it.
        """
        offsets = self(branch.means.detach(), features)
        own = torch.eye(len(features), dtype=offsets.dtype, device=offsets.device)
        return branch.moving(own)._replace(bases=offsets)
