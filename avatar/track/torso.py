"""Torso motion: how the shoulders and the collar move in the picture, lifted to a rigid motion in space.

Every frame is matched to the one reference frame (so nothing drifts) by dense optical flow inside the torso region,
after undoing the motion found for the frame before; a similarity (shift, roll, scale) is fitted robustly, textured
pixels counting most. It becomes a rigid motion of the canonical space at the torso's depth whose projection is that
similarity.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from avatar.geometry import matrix_from_rotvec, rigid, unproject
from avatar.types import Camera

FLOW_SIDE = 256
"""Frames are matched at this size, px: the fit averages thousands of pixels, so finer frames add nothing."""
ROUNDS = 2
"""Flow, fit and warp at most this often per frame ..."""
SETTLED = 0.25
"""... and no more once no point was moved by more than this, in those pixels."""
MARGIN, LEAST_ROWS = 60, 160
"""Rows above and below the torso that are matched along with it, and rows that are matched at least, in those pixels:
bare shoulders need what is around them."""
MOST_POINTS = 2500
"""Torso pixels that take part in the fit."""
FIT_ITERATIONS = 6
SCALES = (0.6, 1.7)
"""Sizes against the reference frame between which it is still this torso: what is matched to another picture (black,
another shot, somebody else) shrinks to a point, in which all pixels agree."""
FARTHEST = 0.6
"""Frame widths that a torso can move and still be in the picture."""
DOUBTFUL = 0.3
"""With fewer pixels that agree the frame before may have misled; the reference frame's place is tried as well."""


class TorsoTracker:
    """Similarity motion of the torso from the reference frame to each streamed frame.

    Motions are [4]: a, b, dx, dy with x' = (1 + a) x - b y + dx, y' = b x + (1 + a) y + dy in frame widths around the
    torso's centre.
    """

    def __init__(self, frame: UInt8[np.ndarray, "H W 3"], torso: Bool[np.ndarray, "H W"]) -> None:
        import cv2

        self._cv2 = cv2
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        reference = self._grey(frame)
        region = cv2.resize(torso.astype(np.uint8), (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
        region = cv2.erode(region, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0
        grid = (np.arange(FLOW_SIDE) + 0.5) / FLOW_SIDE
        self.usable = int(region.sum()) > 200
        ys, xs = np.nonzero(region)
        if len(ys) > MOST_POINTS:
            few = np.random.default_rng(0).choice(len(ys), MOST_POINTS, replace=False)
            ys, xs = ys[few], xs[few]
        self.centre = np.array([grid[xs].mean(), grid[ys].mean()]) if self.usable else np.array([0.5, 0.9])
        self._points = np.stack([grid[xs], grid[ys]], axis=1) - self.centre
        self._top = int(np.clip(ys.min(initial=FLOW_SIDE) - MARGIN, 0, FLOW_SIDE - LEAST_ROWS))
        bottom = max(int(ys.max(initial=0)) + MARGIN, self._top + LEAST_ROWS)
        self._reference = np.ascontiguousarray(reference[self._top : bottom])
        self._index = (ys - self._top, xs)
        self._texture = _structure(cv2, self._reference)[self._index]
        self._motion = np.zeros(4)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> tuple[Float[np.ndarray, " 4"], float]:
        """Motion of the torso in `frame` [4] and the share of pixels that agree with it, 0..1; 0 where it is not found,
        and the motion is then the last one found."""
        if not self.usable:
            return np.zeros(4), 0.0
        grey = self._grey(frame)
        motion, agreement = self._matched(grey, self._motion)
        if agreement < DOUBTFUL:
            again, share = self._matched(grey, np.zeros(4))
            if share > agreement:
                motion, agreement = again, share
        if agreement > 0:
            self._motion = motion
        return self._motion, agreement

    def _matched(self, grey, motion):
        """The motion found from a first guess, and the share of pixels that agree, 0 where it is no torso's."""
        agreement = 0.0
        for _ in range(ROUNDS):
            flow = self._flow.calc(self._reference, self._warped(grey, motion), None)[self._index] / FLOW_SIDE
            before = apply_motion(motion, self._points)
            motion, agreement = _fit(self._points, apply_motion(motion, self._points + flow), self._texture)
            if not SCALES[0] < np.hypot(1 + motion[0], motion[1]) < SCALES[1] or np.abs(motion[2:]).max() > FARTHEST:
                return motion, 0.0
            if np.abs(apply_motion(motion, self._points) - before).max() * FLOW_SIDE < SETTLED:
                break
        return motion, agreement

    def _warped(self, grey, motion):
        """The reference's rows of a frame, a motion undone."""
        matrix = self._pixel_matrix(motion)
        matrix[:, 2] += matrix[:, 1] * self._top
        flags = self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP
        return self._cv2.warpAffine(
            grey, matrix, self._reference.shape[::-1], flags=flags, borderMode=self._cv2.BORDER_REPLICATE
        )

    def _grey(self, frame):
        cv2 = self._cv2
        small = cv2.resize(frame, (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)

    def _pixel_matrix(self, motion):
        """2x3 OpenCV matrix of a motion, in pixels of the flow image with centres at 0."""
        a, b, dx, dy = motion
        linear = np.array([[1 + a, -b], [b, 1 + a]])
        centre = self.centre * FLOW_SIDE - 0.5
        shift = centre + np.array([dx, dy]) * FLOW_SIDE - linear @ centre
        return np.concatenate([linear, shift[:, None]], axis=1)


def _structure(cv2, reference):
    """Smaller eigenvalue of the structure tensor: how well flow is determined. [H, W]"""
    value = cv2.cornerMinEigenVal(reference, 7, ksize=3)
    return value / (value + np.percentile(value, 80) + 1e-12) + 0.02


def apply_motion(motion: Float[np.ndarray, " 4"], points: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
    """Points (frame widths, around the torso's centre) carried by a similarity motion."""
    a, b, dx, dy = motion
    return points @ np.array([[1 + a, b], [-b, 1 + a]]) + np.array([dx, dy])


def lift_motion(
    motion: Float[np.ndarray, "N 4"], centre: Float[np.ndarray, " 2"], depth_cm: float, camera: Camera
) -> Float[np.ndarray, "N 4 4"]:
    """Rigid motions in camera space whose projection at `depth_cm` is the similarity in the picture.

    Args:
        motion: [N, 4] as `TorsoTracker` gives it.
        centre: [2] the torso's centre in frame widths.
        depth_cm: z of the torso in the reference frame.
        camera: the clip's camera.
    """
    width = camera.width
    scale = np.hypot(1 + motion[:, 0], motion[:, 1])
    roll = np.arctan2(motion[:, 1], 1 + motion[:, 0])
    rotation = matrix_from_rotvec(np.stack([np.zeros_like(roll), np.zeros_like(roll), roll], axis=1))
    before = unproject(camera, centre[None] * width, np.array([depth_cm]))
    after = unproject(camera, (centre + motion[:, 2:]) * width, depth_cm / scale)
    return rigid(rotation, after - (rotation @ before[0]))


def _fit(source, target, texture):
    """Robust similarity from `source` to `target` points: Geman-McClure on a scale that shrinks to the residuals.

    Written out per coordinate: with z -> (1 + a + i b) z + shift the weighted least squares has a closed form.
    """
    (x, y), (u, v) = source.T.copy(), target.T.copy()
    weight = texture
    motion, residual = np.zeros(4), np.zeros(len(x))
    for _ in range(FIT_ITERATIONS):
        share = weight / weight.sum()
        mean_x, mean_y, mean_u, mean_v = (np.dot(share, values) for values in (x, y, u, v))
        local_x, local_y, local_u, local_v = x - mean_x, y - mean_y, u - mean_u, v - mean_v
        power = max(float(np.dot(share, local_x**2 + local_y**2)), 1e-12)
        linear = np.dot(share, local_x * local_u + local_y * local_v) / power
        turn = np.dot(share, local_x * local_v - local_y * local_u) / power
        squared = (local_u - linear * local_x + turn * local_y) ** 2 + (
            local_v - turn * local_x - linear * local_y
        ) ** 2
        shift_x, shift_y = mean_u - linear * mean_x + turn * mean_y, mean_v - turn * mean_x - linear * mean_y
        motion = np.array([linear - 1, turn, shift_x, shift_y])
        residual = np.sqrt(squared)
        scale = max(1.5 * float(np.median(residual)), 0.25 / FLOW_SIDE)
        weight = texture / (1 + squared / (2 * scale) ** 2) ** 2
    return motion, float(np.mean(residual < 1.0 / FLOW_SIDE))
