"""What keeps an avatar plausible beyond what its clip showed: a soft limit around the clip's own motion.

Training leaves a motion field undefined wherever no frame was: a slider at 1.0 of a coefficient that the clip never
moved drives the learned bases tens of times as far as any frame did, and the face falls apart. So the driver's
features, and the basis weights they give, pass unchanged within the clip's own range (somewhat widened) and approach a
bound beyond it. What the limits cut off, the geometric prior moves instead (`beyond`). Sliders, tracks and speech all
pass here, through `AvatarModel.weights`; the head's rigid pose is not touched.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEATURE_MARGIN: Final = 0.25
WEIGHT_MARGIN: Final = 0.25
"""The clip's range is widened by this share of itself on each side, so that what the person does in the next minute
(and in the held-out part) is theirs and stays as it is."""
FEATURE_FLOOR: Final = 2.0
"""A feature may always go this far from the mean, in its own unit (see `motion`): what the clip hardly showed must not
be frozen. Not so where the geometric prior takes over what is cut off."""
FEATURE_REACH: Final = 0.75
WEIGHT_REACH: Final = 0.15
"""How far beyond the widened range the limit lies, as a share of that range's width."""
RADIUS_MARGIN: Final = 0.1
RADIUS_REACH: Final = 0.15
"""No frame has all weights at their extremes at once, so their common distance from the middle is limited too: it may
be this share longer than in the clip's most extreme frame, and the limit lies this share beyond that."""


def soft_limit(
    values: Float[Tensor, "B D"], low: Float[Tensor, " D"], high: Float[Tensor, " D"], reach: float
) -> Float[Tensor, "B D"]:
    """Values within low..high as they are; an excess e beyond either becomes ``e r / (e + r)``, r = reach (high - low).

    Continuous with its first derivative, strictly increasing, never beyond ``low - r`` or ``high + r``.

    Args:
        reach: share of the width, above 0.
    """
    room = reach * (high - low) + 1e-6  # a range without width is a bound, not a division by zero
    inside = torch.minimum(torch.maximum(values, low), high)
    excess = values - inside
    return inside + excess * room / (excess.abs() + room)


class SoftRange(nn.Module):
    """The range of D numbers in the clip; limits nothing until it is measured."""

    bounds: Tensor | None

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.register_buffer("bounds", None)

    def measure(self, values: Float[Tensor, "B D"], margin: float, floor: float | Float[Tensor, " D"] = 0.0) -> None:
        """Takes the range of the clip's values.

        Args:
            margin: share of the range by which it is widened on each side.
            floor: it reaches at least from -floor to floor; one, or one for each number.
        """
        low, high = values.amin(0), values.amax(0)
        room = margin * (high - low)
        floors = torch.as_tensor(floor).to(low).expand_as(low)
        self.bounds = torch.stack([torch.minimum(low - room, -floors), torch.maximum(high + room, floors)])

    def forward(self, values: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The values, kept near the range."""
        return values if self.bounds is None else soft_limit(values, self.bounds[0], self.bounds[1], self.reach)


class BranchLimits(nn.Module):
    """The limits of one branch: of what its driver hears, and of what it answers, one by one and together."""

    radius: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.features = SoftRange(FEATURE_REACH)
        self.weights = SoftRange(WEIGHT_REACH)
        self.register_buffer("radius", None)

    def measure(self, features: Float[Tensor, "B D"], weights: Float[Tensor, "B K"], replaced: int = 0) -> None:
        """Takes the ranges of the clip's own motion: driver features, and the weights they give without a limit.

        Args:
            replaced: the first so many features have no floor, because the geometric prior does what they no longer do.
        """
        floor = torch.full((features.shape[1],), FEATURE_FLOOR)
        floor[:replaced] = 0.0
        self.features.measure(features, FEATURE_MARGIN, floor)
        self.weights.measure(weights, WEIGHT_MARGIN)
        self.radius = (1 + RADIUS_MARGIN) * self._from_middle(weights)[0].norm(dim=1).amax().reshape(1)

    def limited_weights(self, weights: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Each weight kept near its range, then all together near the clip's most extreme frame."""
        weights = self.weights(weights)
        if self.radius is None or self.weights.bounds is None:
            return weights
        offset, half = self._from_middle(weights)
        length = offset.norm(dim=1, keepdim=True).clamp_min(1e-6)
        # A length has no lower limit: the range from 0, whose width is the radius itself.
        allowed = soft_limit(length, torch.zeros_like(self.radius), self.radius, RADIUS_REACH)
        return weights + offset * half * (allowed / length - 1)

    def _from_middle(self, weights: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, " K"]]:
        """Distances from the middle of the range in half widths, and the half widths."""
        assert self.weights.bounds is not None
        low, high = self.weights.bounds
        half = 0.5 * (high - low) + 1e-6
        return (weights - 0.5 * (low + high)) / half, half

    def to_tensors(self) -> dict[str, Tensor]:
        """``features`` (2 D) and ``weights`` (2 K): lowest and highest value that passes unchanged; ``radius`` (1).
        Empty before the clip's motion was measured."""
        found = {"features": self.features.bounds, "weights": self.weights.bounds, "radius": self.radius}
        return {key: bounds for key, bounds in found.items() if bounds is not None}

    def load_tensors(self, tensors: dict[str, Tensor], features: int, bases: int) -> None:
        """Back from `to_tensors`.

        Raises:
            ValueError: a range of another shape, or one that ends before it begins.
        """
        for key, part, width in (("features", self.features, features), ("weights", self.weights, bases)):
            bounds = tensors.get(key)
            if bounds is not None and (tuple(bounds.shape) != (2, width) or not bool((bounds[0] <= bounds[1]).all())):
                raise ValueError(f"limits of the {key} have shape {tuple(bounds.shape)} or are no range")
            part.bounds = bounds
        radius = tensors.get("radius")
        if radius is not None and (tuple(radius.shape) != (1,) or float(radius) < 0):
            raise ValueError(f"limits hold a radius of shape {tuple(radius.shape)} or below 0")
        self.radius = radius
