"""What keeps an avatar plausible beyond what its clip showed: a soft limit around the clip's own motion.

Training leaves a motion field undefined wherever no frame was: a slider at 1.0 of a coefficient that the clip never
moved drives the learned bases tens of times as far as any frame did, and the face falls apart. So the driver's
features, and the basis weights they give, pass unchanged within the clip's own (somewhat widened) and approach a bound
beyond it. What the limits cut off, the geometric prior moves instead (`beyond`). Sliders, tracks and speech all
pass here, through `AvatarModel.weights`; the head's rigid pose is not touched.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar.model.ellipsoid import enclosing_ellipsoid

FEATURE_MARGIN: Final = 0.25
"""The clip's range is widened by this share of itself on each side, so that what the person does in the next minute
(and in the held-out part) is theirs and stays as it is."""
FEATURE_FLOOR: Final = 2.0
"""A feature may always go this far from the mean, in its own unit (see `motion`): what the clip hardly showed must not
be frozen. Not so where the geometric prior takes over what is cut off."""
FEATURE_REACH: Final = 0.75
"""How far beyond the widened range the limit lies, as a share of that range's width."""
WEIGHT_MARGIN: Final = 0.1
WEIGHT_REACH: Final = 0.15
"""The smallest ellipsoid about the weights of all frames is widened by this share, and the limit lies this share beyond
that. Ranges of each weight on its own leave corners that no frame comes near: a coefficient that never moved alone
went there, and skin and chin of a short clip fell apart well within them."""


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
    """The limits of one branch: of what its driver hears, one by one, and of what it answers, together."""

    middle: Tensor | None
    whitening: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.features = SoftRange(FEATURE_REACH)
        self.register_buffer("middle", None)
        self.register_buffer("whitening", None)

    def measure(self, features: Float[Tensor, "B D"], weights: Float[Tensor, "B K"], replaced: int = 0) -> None:
        """Takes the clip's own motion: driver features, and the weights they give without a limit.

        Args:
            replaced: the first so many features have no floor, because the geometric prior does what they no longer do.
        """
        floor = torch.full((features.shape[1],), FEATURE_FLOOR)
        floor[:replaced] = 0.0
        self.features.measure(features, FEATURE_MARGIN, floor)
        middle, whitening = enclosing_ellipsoid(weights)
        self.middle, self.whitening = middle, whitening / (1 + WEIGHT_MARGIN)

    def limited_weights(self, weights: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Weights within the ellipsoid as they are, others moved towards its middle until they are near it."""
        if self.middle is None or self.whitening is None:
            return weights
        offset = weights - self.middle
        length = (offset @ self.whitening).norm(dim=1, keepdim=True).clamp_min(1e-6)
        allowed = soft_limit(length, length.new_zeros(1), length.new_ones(1), WEIGHT_REACH)
        return weights + offset * (allowed / length - 1)

    def to_tensors(self) -> dict[str, Tensor]:
        """``features`` (2 D): lowest and highest value that passes unchanged; ``middle`` (K) and ``whitening`` (K K) of
        the ellipsoid of weights that do. Empty before the clip's motion was measured."""
        found = {"features": self.features.bounds, "middle": self.middle, "whitening": self.whitening}
        return {key: bounds for key, bounds in found.items() if bounds is not None}

    def load_tensors(self, tensors: dict[str, Tensor], features: int, bases: int) -> None:
        """Back from `to_tensors`; early files hold a range of each weight, and how far all together may go in it.

        Raises:
            ValueError: another shape, or a range that ends before it begins.
        """
        bounds, ranges = _checked_range(tensors, "features", features), _checked_range(tensors, "weights", bases)
        middle, whitening = tensors.get("middle"), tensors.get("whitening")
        if ranges is not None and whitening is None:
            radius = tensors.get("radius", torch.tensor([bases**0.5]))
            middle, half = ranges.mean(dim=0), 0.5 * (ranges[1] - ranges[0]) + 1e-6
            whitening = torch.diag(1 / (half * radius.clamp_min(1e-6)))
        shapes = [tuple(t.shape) for t in (middle, whitening) if t is not None]
        if shapes and shapes != [(bases,), (bases, bases)]:
            raise ValueError(f"limits of the weights have shapes {shapes}")
        self.features.bounds, self.middle, self.whitening = bounds, middle, whitening


def _checked_range(tensors: dict[str, Tensor], key: str, width: int) -> Tensor | None:
    bounds = tensors.get(key)
    if bounds is not None and (tuple(bounds.shape) != (2, width) or not bool((bounds[0] <= bounds[1]).all())):
        raise ValueError(f"limits of the {key} have shape {tuple(bounds.shape)} or are no range")
    return bounds
