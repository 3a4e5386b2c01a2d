"""Lids that close as this person's do, whatever else a driver says of the eyes.

Trackers see more than eyeBlink in a blink: lids that come down look like a glance down and a squint. The clip therefore
shows closed eyes only with all of these together, and that is what an avatar learns. A slider, an edit or the track of
another system moves eyeBlink alone, a state of which the learned motion knows nothing: lids half closed over eyes that
show through. So the other coefficients of an eye are kept where they were whenever this person's eye was as far closed,
and eyeBlink itself goes no further than their closed eye. Nothing changes while the eyes are open, and next to nothing
(see docs/quality.md) in the clip itself.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.conventions import BLENDSHAPE_INDEX

COMPANIONS: Final = ("eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide")
EYES: Final = tuple(
    tuple(BLENDSHAPE_INDEX[f"{name}{side}"] for name in ("eyeBlink", *COMPANIONS)) for side in ("Left", "Right")
)
"""Columns of either eye among the coefficients: eyeBlink, then those that go with it."""
CLOSES: Final = 0.25
"""Least rise of eyeBlink from open to closed by which a clip shows closed eyes."""
NEARLY: Final = 0.7
"""Share of that rise, mean of both eyes, from which on a frame tells how the other coefficients are then."""
LEAST_FRAMES: Final = 3
HALF: Final = 0.5
"""At least so many frames tell it, the most closed ones if need be, where they are half closed at least."""
USUAL: Final = 0.1
"""The others are kept between this quantile and its counterpart of those frames: blinks lag and lead a little."""


@torch.no_grad()
def measure_lids(coefficients: Float[Tensor, "N 52"]) -> Float[Tensor, "2 7 2"] | None:
    """How the eyes close in a clip.

    Returns:
        Of each eye eyeBlink open and closed, then of each companion the least and the most at closed eyes; None where
        the clip shows no closed eyes.
    """
    eyes = coefficients.float().cpu()[:, torch.tensor(EYES)]
    opened, shut = eyes.median(dim=0).values, eyes[:, :, 0].amax(dim=0)
    rise = shut - opened[:, 0]
    if len(eyes) < LEAST_FRAMES or float(rise.min()) < CLOSES:
        return None
    closing = ((eyes[:, :, 0] - opened[:, 0]) / rise).clamp(0, 1).mean(dim=1)
    enough = min(NEARLY, float(closing.topk(LEAST_FRAMES).values[-1]))
    if enough < HALF:
        return None
    nearly = closing >= enough
    closed = opened + (eyes[nearly] - opened) / closing[nearly, None, None]  # all the way, in proportion
    ends = torch.quantile(closed.clamp(0, 1), torch.tensor([USUAL, 1 - USUAL]), dim=0).permute(1, 2, 0)
    ends[:, 0] = torch.stack([opened[:, 0], shut], dim=1)
    return ends.contiguous().to(coefficients.device)


def as_lids_close(coefficients: Float[Tensor, "B 52"], lids: Float[Tensor, "2 7 2"]) -> Float[Tensor, "B 52"]:
    """Coefficients with the eyes as `lids` has them: bounds that close in from 0..1 as an eye closes."""
    eyes = torch.tensor(EYES, device=coefficients.device)
    seen = coefficients[:, eyes]
    (opened, shut), (least, most) = lids[:, 0].unbind(1), lids[:, 1:].unbind(2)
    blink = torch.minimum(seen[:, :, 0], shut)
    closing = ((blink - opened) / (shut - opened)).clamp(0, 1).unsqueeze(2)
    others = torch.maximum(torch.minimum(seen[:, :, 1:], 1 - closing * (1 - most)), closing * least)
    changed = coefficients.clone()
    changed[:, eyes] = torch.cat([blink.unsqueeze(2), others], dim=2)
    return changed


def checked_lids(lids: Tensor) -> Float[Tensor, "2 7 2"]:
    """Lids from a file.

    Raises:
        ValueError: another shape, or eyes that close before they open.
    """
    if tuple(lids.shape) != (len(EYES), len(EYES[0]), 2):
        raise ValueError(f"lids have shape {tuple(lids.shape)}")
    if not bool((lids[:, 0, 0] < lids[:, 0, 1]).all() and (lids[:, 1:, 0] <= lids[:, 1:, 1]).all()):
        raise ValueError("lids hold a range that ends before it begins")
    return lids.float()
