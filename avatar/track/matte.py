"""Soft person matte: the network's coarse mask, sharpened along the picture's edges and keyed against the backdrop.

The network decides what is person; only in a band around its edge is the alpha computed from the picture: where the
backdrop has been seen, by the matting equation I = a F + (1 - a) B with the nearest sure foreground as F; elsewhere
by a guided filter (He et al., PAMI 2013).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from avatar.track.backdrop import Plate
from avatar.track.detect import MaskStore

BAND = 0.03
"""Half width of the band around the mask's edge in which hair may lie, over the frame size."""
KEY_NOISE = 14.0
"""Colour difference (0..255) between person and backdrop at which keying is trusted half."""


def refine_matte(
    frame: UInt8[np.ndarray, "H W 3"], mask: Float32[np.ndarray, "S S"], plate: Plate
) -> UInt8[np.ndarray, "H W"]:
    """Person matte of a frame.

    Args:
        frame: [H, W, 3] RGB.
        mask: [S, S] person probability 0..255 at the network's resolution (already steadied over time).
        plate: the backdrop.

    Returns:
        [H, W] alpha, 0 backdrop .. 255 person.
    """
    import cv2

    size = frame.shape[0]
    person, band = (cv2.resize(part, (size, size), interpolation=cv2.INTER_NEAREST) for part in _parts(cv2, mask))
    where = np.flatnonzero(band.view(np.bool_))
    if not len(where):
        return person
    coarse = mask * np.float32(1 / 255)
    near = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR).ravel().take(where)
    radius = max(2, round(BAND * size))
    guided = _guided(cv2, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), coarse, max(2, radius // 2), where)
    keyed, trust = _key(cv2, frame, person, plate, radius, where)
    alpha = guided + trust * (keyed - guided)
    # keying cannot tell a person from a backdrop of the same colour: the network bounds it from both sides
    alpha = np.minimum(np.maximum(alpha, near * 4 - 3), near * 4)
    person.ravel()[where] = np.clip(alpha * 255 + 0.5, 0, 255)
    return person


def _parts(cv2, mask):
    """Where the network is sure of a person (255, else 0), and the band around its edge (1, else 0). Both [S, S]"""
    radius = max(2, round(BAND * mask.shape[0]))
    half = (mask > 127.5).view(np.uint8)
    # erosion and dilation by a box of the band's width, as thresholds of a box mean (several times faster)
    density = cv2.blur(half.astype(np.float32), (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REPLICATE)
    sure = density > 1 - 1e-4
    return sure.view(np.uint8) * np.uint8(255), ((density > 1e-4) & ~sure).view(np.uint8)


def steadied(masks: MaskStore, index: int) -> Float32[np.ndarray, "S S"]:
    """The raw mask averaged over the neighbouring frames, 1-2-1: its flicker is noise, its motion is slow."""
    before, here, after = (masks[max(k, 0)] for k in (index - 1, index, index + 1))
    return (before.astype(np.uint16) + here + here + after) * np.float32(0.25)


def _key(cv2, frame, sure, plate: Plate, radius: int, where):
    """Alpha of the band's pixels by the matting equation and how far to trust it, both [B] in 0..1."""
    size = len(frame)
    down, across = np.divmod(where.astype(np.int32), np.int32(size))
    near, found = _colour_beside(cv2, frame, sure, radius, down, across)
    backdrop = plate.colour.reshape(-1, 3).take(where, axis=0).astype(np.float32)
    contrast = near - backdrop
    power = np.einsum("bc,bc->b", contrast, contrast)
    picture = frame.reshape(-1, 3).take(where, axis=0).astype(np.float32)
    keyed = np.einsum("bc,bc->b", picture - backdrop, contrast) / np.maximum(power, 1.0)
    noise = (KEY_NOISE + 2 * plate.spread.reshape(-1).take(where)) ** 2 * 3
    trust = power / (power + noise) * (plate.seen.reshape(-1).take(where) & found)
    # widen the ends: noise of the backdrop must not become a veil
    return np.clip((keyed - 0.12) / 0.7, 0, 1), trust


def _colour_beside(cv2, frame, sure, radius: int, down, across):
    """Mean colour of the sure person around pixels [B, 3], and whether there is any near [B].

    It varies slowly: a quarter of the resolution will do."""
    size = len(frame)
    few = max(16, size // 4)
    small, inside = (cv2.resize(image, (few, few), interpolation=cv2.INTER_AREA) for image in (frame, sure))
    inside = (inside == 255).view(np.uint8)
    box = (radius | 1, radius | 1)
    total = cv2.blur(inside.astype(np.float32), box)
    colour = (
        cv2.blur(cv2.copyTo(small, inside).astype(np.float32), box) / np.maximum(total, np.float32(1e-4))[..., None]
    )
    index = down * few // size * few + across * few // size
    return colour.reshape(-1, 3).take(index, axis=0), total.ravel().take(index) > 0.004


def _guided(cv2, guide, mask, radius: int, where):
    """Guided filter of `mask` along the edges of the grey picture `guide`, at pixels `where` of it. [B] in 0..1

    Its linear coefficients are found at half the size (He and Sun, "Fast guided filter", arXiv 1505.00996).

    Args:
        guide: [H, W] 0..255.
        mask: [S, S] 0..1, of any size.
        radius: of the filter in pixels of the guide.
    """
    size = guide.shape[::-1]
    half = (max(8, size[0] // 2), max(8, size[1] // 2))
    small = cv2.resize(guide, half, interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)
    seen = cv2.resize(mask, half, interpolation=cv2.INTER_AREA)
    box = (radius | 1, radius | 1)  # a box of 2 radius + 1 at full size
    mean_guide, mean_mask = cv2.blur(small, box), cv2.blur(seen, box)
    covariance = cv2.blur(small * seen, box) - mean_guide * mean_mask
    variance = cv2.blur(small * small, box) - mean_guide**2
    slope = covariance / (variance + np.float32(1e-3))
    offset = mean_mask - slope * mean_guide
    slope, offset = (
        cv2.resize(cv2.blur(v, box), size, interpolation=cv2.INTER_LINEAR).ravel().take(where) for v in (slope, offset)
    )
    return np.clip(slope * (guide.ravel().take(where) * np.float32(1 / 255)) + offset, 0, 1)
