"""A driving video's motion refined by analysis by synthesis, where the video shows the avatar's own person."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from avatar.geometry import project, transform
from avatar.model import Avatar
from avatar.progress import Reporter
from avatar.train.refine import RefineConfig, refine_motion
from avatar.types import Capture, Motion, Track

PROBED_FRAMES = 4
"""Frames, spread over the video, on which it is found out whether refinement pays."""
LIKENESS_DB = 17.0
"""Least likeness of avatar and video on those frames, over the person's pixels, after refinement. The avatar of the
person in the video reached 24 to 35 dB (27 in another crop and light), those of others 9 to 15."""
LEAST_GAIN_DB = 0.3
"""Refinement must make the avatar at least this much more alike to be worth its time."""


class _View:
    """The video as the avatar's camera would see it: frames moved and scaled so that the heads of both lie together.

    Another crop or distance is taken out this way; the avatar is never drawn far from where it was learned.
    """

    def __init__(self, avatar: Avatar, capture: Capture, track: Track) -> None:
        import cv2

        points = track.neutral.astype(np.float64)
        seen = project(track.camera, transform(track.camera_from_head[track.reference_frame], points))
        wanted = project(avatar.camera, transform(avatar.rest_pose("camera_from_head"), points))
        matrix, _ = cv2.estimateAffinePartial2D(seen - 0.5, wanted - 0.5, method=cv2.LMEDS)
        self._cv2, self._matrix, self._size = cv2, matrix, (avatar.camera.width, avatar.camera.height)
        self._frames, self._regions = capture.frames, track.regions

    def frame(self, index: int) -> np.ndarray:
        """The picture."""
        return self._cv2.warpAffine(self._frames[index], self._matrix, self._size)

    def person(self, index: int) -> np.ndarray:
        """Weight of each pixel: the person counts, the video's backdrop is not the avatar's."""
        matte = self._regions.matte(index).astype(np.float32) / 255
        return self._cv2.warpAffine(matte, self._matrix, self._size)


def refined_motion(avatar: Avatar, motion: Motion, capture: Capture, track: Track, reporter: Reporter) -> Motion:
    """The motion with head, torso and coefficients refined against the video's frames, if that pays.

    The picture can only correct motion where it shows what the avatar shows: with another person in the video, or in
    another light, the motion comes back as it is.

    Args:
        motion: what the video's track makes the avatar do, frame by frame.
    """
    view, valid = _View(avatar, capture, track), np.flatnonzero(track.valid)
    probe = valid[np.linspace(0, len(valid) - 1, min(PROBED_FRAMES, len(valid))).round().astype(int)]
    few = motion.at(probe)
    better = _refined(avatar, view, probe, few, RefineConfig(batch=1))
    before, after = (_likeness(avatar, view, probe, m) for m in (few, better))
    if after < LIKENESS_DB or after < before + LEAST_GAIN_DB:
        reporter.say("the video's motion is not refined: it does not show this person as the avatar looks")
        return motion
    with reporter.bar("refining the motion", len(motion.times)) as bar:
        result = _refined(avatar, view, np.arange(len(motion.times)), motion, RefineConfig(), bar.advance)
    keep = track.valid[:, None]
    return Motion(
        motion.times,
        np.where(keep, result.coefficients, motion.coefficients),
        np.where(keep[..., None], result.camera_from_head, motion.camera_from_head),
        np.where(keep[..., None], result.camera_from_torso, motion.camera_from_torso),
        _codes(avatar, motion, result, keep),
    )


def _codes(avatar: Avatar, motion: Motion, refined: Motion, keep: Bool[np.ndarray, "N 1"]) -> np.ndarray | None:
    """The refined appearance codes, and where the picture tells nothing the likeliest."""
    likely = avatar.likeliest_codes(motion)
    return None if likely is None or refined.codes is None else np.where(keep, refined.codes, likely)


def _refined(
    avatar: Avatar, view: _View, indices: np.ndarray, motion: Motion, config: RefineConfig, advance=lambda: None
) -> Motion:
    frames = (view.frame(int(i)) for i in indices)
    weights = lambda k: view.person(int(indices[k]))  # noqa: E731
    return refine_motion(avatar.model, frames, motion, avatar.camera, weights, config, advance)


def _likeness(avatar: Avatar, view: _View, indices: np.ndarray, motion: Motion) -> float:
    """PSNR in dB over the person's pixels of some frames."""
    error = total = 0.0
    for index, image in zip(indices, avatar.frames(motion), strict=True):
        weight = view.person(int(index))
        difference = (image.astype(np.float32) - view.frame(int(index)).astype(np.float32)) / 255
        error += float((weight * (difference**2).mean(axis=2)).sum())
        total += float(weight.sum())
    return float(-10 * np.log10(error / max(total, 1e-6) + 1e-12))
