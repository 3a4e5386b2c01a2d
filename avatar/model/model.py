"""The avatar as a torch module: three branches, what drives them, and the backdrop."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from avatar.config import MotionField
from avatar.conventions import BRANCHES
from avatar.dataset import MotionBatch
from avatar.model.beyond import CARRIED, Beyond
from avatar.model.compose import Composite, compose
from avatar.model.gaussians import Branch
from avatar.model.hashgrid import HashField
from avatar.model.limits import BranchLimits
from avatar.model.motion import BasisWeights, DriverFeatures
from avatar.model.thinning import thinned
from avatar.raster import MovingGaussians
from avatar.types import Camera


class AvatarModel(nn.Module):
    """Everything that is learned from the clip's pictures."""

    def __init__(
        self,
        camera: Camera,
        branches: dict[str, Branch],
        features: DriverFeatures,
        backdrop: Float[Tensor, "H W 3"],
        hidden: int,
        motion: MotionField = "basis",
    ) -> None:
        super().__init__()
        self.camera = camera
        self.branches = nn.ModuleDict({name: branches[name] for name in BRANCHES})
        self.features = features
        self.drivers = nn.ModuleDict(
            {
                name: HashField(features.width(name))
                if motion == "hashgrid"
                else BasisWeights(features.width(name), branches[name].basis_count, hidden)
                for name in BRANCHES
            }
        )
        self.limits = nn.ModuleDict({name: BranchLimits() for name in BRANCHES})
        self.beyond: Beyond | None = None
        """What moves the face where the limits stop it; None until training is over, and in files of early versions."""
        self.backdrop = nn.Parameter(backdrop.clone())
        self.rasterizer = "auto"
        """Backend of `avatar.raster.draw`."""

    @property
    def count(self) -> int:
        """Number of Gaussians in all branches."""
        return sum(self.branch(name).count for name in BRANCHES)

    def branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    @property
    def fields(self) -> dict[str, HashField]:
        """The `hashgrid` fields by branch; empty for `basis`."""
        return {name: driver for name, driver in self.drivers.items() if isinstance(driver, HashField)}

    def branch_limits(self, name: str) -> BranchLimits:
        limits = self.limits[name]
        assert isinstance(limits, BranchLimits)
        return limits

    def weights(self, motion: MotionBatch) -> dict[str, Float[Tensor, "B W"]]:
        """Basis weights per branch, of a model with `basis` motion: those of the learned bases, which motion beyond the
        clip's own moves no further than the `limits` allow, then those of the modes that move in their place."""
        features, heard, asked, weights = self.features(motion), {}, {}, {}
        for name in BRANCHES:
            limits = self.branch_limits(name)
            heard[name] = limits.features(features[name])
            asked[name] = self.drivers[name](heard[name])
            weights[name] = limits.limited_weights(asked[name])
        if self.beyond is not None:
            unit = self.features.coefficient_std
            wanted, within = (values["face"][:, : len(unit)] * unit for values in (features, heard))
            modes = self.beyond(wanted, within, asked["face"], weights["face"])
            weights |= {name: torch.cat([weights[name], modes], dim=1) for name in CARRIED}
        return weights

    def extend(self, beyond: Beyond) -> None:
        """Lets the geometric prior move the face where the limits stop it. The last change to a finished model."""
        self.beyond = beyond.to(self.backdrop.device)
        self.beyond.carry({name: self.branch(name) for name in CARRIED})

    def measure_limits(self, motion: MotionBatch) -> None:
        """Takes the ranges of the clip's own motion, when training is over; until then nothing is limited."""
        self.features.measure_lids(motion)
        features = self.features(motion)
        for name in BRANCHES:
            replaced = 0 if self.beyond is None or name != "face" else motion.coefficients.shape[1]
            with torch.no_grad():
                self.branch_limits(name).measure(features[name], self.drivers[name](features[name]), replaced)

    def moving(self, motion: MotionBatch) -> dict[str, MovingGaussians]:
        """The branches as the rasterizer draws them."""
        if self.fields:
            features = self.features(motion)
            return {name: field.moving(self.branch(name), features[name]) for name, field in self.fields.items()}
        weights = self.weights(motion)
        return {name: self.branch(name).moving(weights[name]) for name in BRANCHES}

    def backdrop_at(self, camera: Camera) -> Float[Tensor, "H W 3"]:
        """The plate at the size of a camera's picture (area average down, bilinear up)."""
        if (camera.height, camera.width) == self.backdrop.shape[:2]:
            return self.backdrop
        plate = self.backdrop.permute(2, 0, 1).unsqueeze(0)
        size = (camera.height, camera.width)
        if camera.height <= self.backdrop.shape[0]:
            plate = functional.interpolate(plate, size, mode="area")
        else:
            plate = functional.interpolate(plate, size, mode="bilinear", align_corners=False)
        return plate[0].permute(1, 2, 0)

    def forward(
        self,
        motion: MotionBatch,
        camera: Camera | None = None,
        with_coverage: bool = False,
        grad_sink: Float[Tensor, "N 2"] | None = None,
        shown: Float[Tensor, " N"] | None = None,
    ) -> Composite:
        """Draws a batch of frames.

        Args:
            motion: coefficients and poses, B frames.
            camera: another size of the same view; None is the avatar's own.
            with_coverage, grad_sink: as in `compose`.
            shown: factor on the opacity of each Gaussian (branches in order), see `thinning`.
        """
        camera = camera or self.camera
        gaussians = self.moving(motion)
        if shown is not None:
            gaussians = thinned(gaussians, shown)
        poses = torch.stack([motion.camera_from_head, motion.camera_from_torso], dim=1)
        return compose(gaussians, poses, camera, self.backdrop_at(camera), with_coverage, grad_sink, self.rasterizer)
