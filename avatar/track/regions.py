"""Region labels of each frame (backdrop, torso, head, inner mouth) and their compressed store.

Head is the face, the hair, the ears and the neck; torso is the rest of the person. In coordinates carried by the head
(distance from its axis, height below the chin, cm) most is decided by place: above the ears' line is head, far below
the chin is torso. In between (neck, collar, hair on the shoulders) colour decides: each pixel goes where its colour was
seen more often, in the sure parts of head or torso of this clip, with place as the prior. The inner mouth is the
inner-lip contour, empty when the lips touch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from avatar.conventions import REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.track.mesh import FACE_OVAL, INNER_LIPS, RIGID, mean_head

HEAD_LINE_CM = ((0.0, -7.0), (8.0, -8.0), (10.0, -9.5), (14.0, -11.0), (30.0, -18.0))
"""Distance from the head's axis and height below the chin above which a person is head, cm; so is the face's oval."""
TORSO_LINE_CM = ((0.0, 9.0), (5.0, 7.5), (8.0, 5.0), (14.0, 1.0), (30.0, -6.0))
"""The same for the line below which it is torso."""
NECK_LINE_CM = ((0.0, 5.0), (4.5, 4.0), (7.0, -1.0), (10.0, -3.0), (14.0, -6.0), (30.0, -12.0))
"""Where both are equally likely by place alone (a bare neck and a collar)."""
PLACE_SOFTNESS_CM = 2.0
"""Distance from that line over which place alone makes the odds e : 1."""
LINE_STEP_CM = 0.2
"""Resolution of those lines across; 256 steps reach further than any of them."""
SURE = 3.0
"""Largest log odds that place or colour gives; certainty."""
CRUMB = 0.02
"""A piece of a region smaller than this part of its largest piece is a crumb."""
COLOUR_BINS = 16
"""Bins per axis of the colour statistics."""
OPEN_CM = 0.12
"""Lips further apart than this show the inner mouth."""


@dataclass(frozen=True)
class HeadFrame:
    """Head-carried image coordinates of one frame."""

    landmarks: Float[np.ndarray, "478 2"]
    axis_x: Float[np.ndarray, " 2"]
    """Image direction of the head's x axis with roll only (unit)."""
    px_per_cm: float


def head_frame(landmarks: Float[np.ndarray, "478 D"]) -> HeadFrame:
    """Head-carried coordinates from a frame's landmarks (px): roll from the eyes, scale from the rigid points."""
    points = landmarks[:, :2].astype(np.float64)
    eyes = points[263] - points[33]
    rigid = list(RIGID)
    spread = np.sqrt(np.var(points[rigid], axis=0).sum() / np.var(mean_head()[rigid, :2], axis=0).sum())
    return HeadFrame(points, eyes / max(float(np.linalg.norm(eyes)), 1e-6), float(spread))


class ColourStatistics:
    """How much more often each colour belongs to the head than to the torso in this clip (log odds)."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, COLOUR_BINS**3))
        self._odds: np.ndarray | None = None

    def add(self, frame: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "S S"], head: HeadFrame) -> None:
        """Learns from the sure parts of one frame, whose raw person mask is given (0..255)."""
        import cv2

        side = mask.shape[0]
        small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        across, below = _head_coordinates(head, side, frame.shape[0] / side)
        face = np.zeros((side, side), np.uint8)
        cv2.fillPoly(face, [_fixed(head.landmarks[list(FACE_OVAL)] * (side / frame.shape[0]))], (1,), shift=4)
        bins, person = _bins(small), mask > 230
        for k, sure in enumerate(
            ((face > 0) | (below < _line(HEAD_LINE_CM, across)), below >= _line(TORSO_LINE_CM, across))
        ):
            self._counts[k] += np.bincount(bins[person & sure], minlength=COLOUR_BINS**3)

    def odds(self) -> Float32[np.ndarray, " bins"]:
        """Log odds of head against torso per colour bin.

        Face and hair are always well seen, clothes often hardly (a tight crop): half of what clothes may look like is
        left to any colour, so what the head never shows counts as clothes.
        """
        if self._odds is None:
            from scipy.ndimage import gaussian_filter

            cube = self._counts.reshape(2, COLOUR_BINS, COLOUR_BINS, COLOUR_BINS)
            shares = [gaussian_filter(c / max(c.sum(), 1.0), 0.8, mode="nearest") for c in cube]
            anything = 1 / COLOUR_BINS**3
            odds = np.log((0.95 * shares[0] + 0.05 * anything) / (0.5 * shares[1] + 0.5 * anything))
            self._odds = odds.clip(-SURE, SURE).reshape(-1).astype(np.float32)
        return self._odds


def label_frame(
    frame: UInt8[np.ndarray, "H W 3"], matte: UInt8[np.ndarray, "H W"], head: HeadFrame, colours: ColourStatistics
) -> UInt8[np.ndarray, "H W"]:
    """Region label of every pixel of a frame."""
    import cv2

    size = frame.shape[0]
    person = matte > 127
    leaning = cv2.resize(_leaning(cv2, frame, person, head, colours), (size, size), interpolation=cv2.INTER_LINEAR)
    labels = np.where(leaning > 0, np.uint8(REGION_HEAD), np.uint8(REGION_TORSO))
    labels[~person] = REGION_BACKGROUND
    mouth = np.flatnonzero(inner_mouth(head.landmarks, head.px_per_cm, size).view(np.bool_))
    labels.ravel()[mouth[person.ravel()[mouth]]] = REGION_MOUTH
    return labels


def _leaning(cv2, frame, person, head: HeadFrame, colours: ColourStatistics) -> Float32[np.ndarray, "h w"]:
    """Log odds of head against torso, where both are of the person, -SURE..SURE; at half the frame's size."""
    side = max(8, frame.shape[0] // 2)
    step = frame.shape[0] / side
    across, below = _head_coordinates(head, side, step)
    sure = below < _line(HEAD_LINE_CM, across)
    unsure = (below < _line(TORSO_LINE_CM, across)) & ~sure
    leaning = np.where(sure, np.float32(SURE), np.float32(-SURE))
    rows = np.flatnonzero(unsure.any(axis=1))
    if len(rows):
        part = np.s_[rows[0] : rows[-1] + 1]
        place = ((_line(NECK_LINE_CM, across[part]) - below[part]) / PLACE_SOFTNESS_CM).clip(-SURE, SURE)
        small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)[part]
        width = max(3, round(0.012 * side)) | 1
        odds = cv2.blur(colours.odds().take(_bins(small)), (width, width), borderType=cv2.BORDER_REPLICATE)
        np.copyto(leaning[part], (odds + place).clip(-SURE, SURE), where=unsure[part])
    cv2.fillPoly(leaning, [_fixed(head.landmarks[list(FACE_OVAL)] / step)], (SURE,), shift=4)
    _turn_crumbs(cv2, leaning, cv2.resize(person.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST))
    return leaning


def _turn_crumbs(cv2, leaning: Float32[np.ndarray, "h w"], person: UInt8[np.ndarray, "h w"]) -> None:
    """Crumbs of head that do not hang together with larger pieces become torso, then the other way round.

    Shoulders are often cut into two large pieces by the neck or a tie: only crumbs change sides.
    """
    for side in (1, -1):
        region = person & (leaning * np.float32(side) > 0)
        _, parts, facts, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
        areas = facts[1:, cv2.CC_STAT_AREA]
        for k in np.flatnonzero(areas < CRUMB * areas.max(initial=0)) + 1:
            left, top, width, height = facts[k, :4]
            box = np.s_[top : top + height, left : left + width]
            np.negative(leaning[box], out=leaning[box], where=parts[box] == k)


def _head_coordinates(head: HeadFrame, side: int, step: float):
    """Where every pixel lies: distance from the head's axis in steps of LINE_STEP_CM (uint8, for `_line`) and height
    below the chin in cm (float32). Both [side, side]."""
    down = np.array([-head.axis_x[1], head.axis_x[0]])
    oval = head.landmarks[list(FACE_OVAL)]
    chin = oval[(oval @ down).argmax()]
    chin = chin + head.axis_x * float((oval.mean(axis=0) - chin) @ head.axis_x)  # on the face's axis
    grid = ((np.arange(side) + 0.5) * step).astype(np.float32)
    scale = np.float32(1 / head.px_per_cm)
    x, y = (grid[None, :] - np.float32(chin[0])) * scale, (grid[:, None] - np.float32(chin[1])) * scale
    axis, below = head.axis_x.astype(np.float32), down.astype(np.float32)
    per_step = np.float32(1 / LINE_STEP_CM)
    across = np.minimum(np.abs(x * (axis[0] * per_step) + y * (axis[1] * per_step)), 255).astype(np.uint8)
    return across, x * below[0] + y * below[1]


def _line(line, across: UInt8[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Height of a line at each pixel's distance from the head's axis, cm."""
    import cv2

    reach, height = np.array(line, dtype=np.float32).T
    table = np.interp(np.arange(256) * LINE_STEP_CM, reach, height).astype(np.float32)
    return cv2.LUT(across, table)


def _bins(frame: UInt8[np.ndarray, "H W 3"]):
    """Index of each pixel's colour bin. [H, W]"""
    part = (frame >> 4).astype(np.uint16)
    return (part[..., 0] << 8) | (part[..., 1] << 4) | part[..., 2]


def inner_mouth(landmarks: Float[np.ndarray, "478 2"], px_per_cm: float, size: int) -> UInt8[np.ndarray, "H W"]:
    """1 inside the inner-lip contour, all 0 when the lips touch."""
    import cv2

    mask = np.zeros((size, size), np.uint8)
    gap = np.linalg.norm(landmarks[[81, 13, 311]] - landmarks[[178, 14, 402]], axis=1).mean()
    if gap > OPEN_CM * px_per_cm:
        cv2.fillPoly(mask, [_fixed(landmarks[list(INNER_LIPS)])], (1,), shift=4)
    return mask


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixel positions (centres at +0.5) as OpenCV's fixed-point integers (centres at 0) with 4 fractional bits."""
    return ((points - 0.5) * 16).round().astype(np.int32)


class StoredRegions:
    """Region labels and mattes of a clip, each frame compressed on its own and decoded when asked for."""

    def __init__(self, blob: UInt8[np.ndarray, " B"], offsets: np.ndarray, size: int) -> None:
        if len(offsets) % 2 == 0 or offsets[-1] != len(blob) or np.any(np.diff(offsets) < 0):
            raise ValueError("the region offsets do not fit the data")
        self.blob, self.offsets, self.size = blob, offsets, size

    def __len__(self) -> int:
        return len(self.offsets) // 2

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """REGION_* label of each pixel."""
        return self._part(2 * index)

    def matte(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Soft person mask, 0 = backdrop, 255 = person."""
        return self._part(2 * index + 1)

    def _part(self, part: int) -> UInt8[np.ndarray, "H W"]:
        if not 0 <= part < len(self.offsets) - 1:
            raise IndexError(part // 2)
        raw = zlib.decompress(self.blob[self.offsets[part] : self.offsets[part + 1]].tobytes())
        return np.frombuffer(raw, dtype=np.uint8).reshape(self.size, self.size)


class RegionWriter:
    """Collects the compressed regions of a clip frame by frame."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blobs: list[bytes] = []

    def pack(self, labels: UInt8[np.ndarray, "H W"], matte: UInt8[np.ndarray, "H W"]) -> tuple[bytes, bytes]:
        """Compresses one frame; safe on any thread."""
        for image in (labels, matte):
            if image.shape != (self._size, self._size) or image.dtype != np.uint8:
                raise ValueError(f"regions must be uint8 of side {self._size}")
        return _packed(labels), _packed(matte)

    def add(self, packed: tuple[bytes, bytes]) -> None:
        """Stores the next frame, as `pack` gave it."""
        self._blobs += packed

    def finish(self) -> StoredRegions:
        """The finished store."""
        offsets = np.concatenate([[0], np.cumsum([len(b) for b in self._blobs])]).astype(np.int64)
        blob = np.frombuffer(b"".join(self._blobs), dtype=np.uint8)
        return StoredRegions(blob, offsets, self._size)


def _packed(image: UInt8[np.ndarray, "H W"]) -> bytes:
    return zlib.compress(np.ascontiguousarray(image).tobytes(), 3)
