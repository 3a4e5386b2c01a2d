"""A driving video's motion refined by analysis by synthesis, where the video shows the avatar's own person."""

from __future__ import annotations

import dataclasses

import numpy as np

from avatar.model import Avatar
from avatar.progress import Reporter
from avatar.train.refine import RefineConfig, refine_motion
from avatar.types import Capture, Motion, Track

PROBED_FRAMES = 4
"""Frames, spread over the video, on which it is found out whether refinement pays."""
LIKENESS_DB = 17.0
"""Least likeness of avatar and video on those frames, over the person's pixels, after refinement. The avatar of the
person in the video reached 24 to 35 dB, those of others 9 to 14."""
LEAST_GAIN_DB = 0.3
"""Refinement must make the avatar at least this much more alike to be worth its time."""


def refined_track(avatar: Avatar, capture: Capture, track: Track, reporter: Reporter) -> Track:
    """The track with head, torso and coefficients refined against the video's frames, if that pays.

    The picture can only correct motion where it shows what the avatar shows: with another person in the video, or in
    another light, the track comes back as it is.
    """
    valid = np.flatnonzero(track.valid)
    probe = valid[np.linspace(0, len(valid) - 1, min(PROBED_FRAMES, len(valid))).round().astype(int)]
    motion = _motion(track, probe)
    better = _refined(avatar, capture, track, probe, motion, RefineConfig(batch=1))
    before, after = (_likeness(avatar, capture, track, probe, m) for m in (motion, better))
    if after < LIKENESS_DB or after < before + LEAST_GAIN_DB:
        reporter.say("the video's motion is not refined: it does not show this person as the avatar looks")
        return track
    with reporter.bar("refining the motion", len(track.times)) as bar:
        everything = np.arange(len(track.times))
        result = _refined(avatar, capture, track, everything, _motion(track, everything), RefineConfig(), bar.advance)
    keep = track.valid[:, None]
    return dataclasses.replace(
        track,
        coefficients=np.where(keep, result.coefficients, track.coefficients),
        camera_from_head=np.where(keep[..., None], result.camera_from_head, track.camera_from_head),
        camera_from_torso=np.where(keep[..., None], result.camera_from_torso, track.camera_from_torso),
    )


def _motion(track: Track, indices: np.ndarray) -> Motion:
    return Motion(
        track.times[indices],
        track.coefficients[indices],
        track.camera_from_head[indices],
        track.camera_from_torso[indices],
    )


def _refined(
    avatar: Avatar, capture: Capture, track: Track, indices: np.ndarray, motion: Motion, config: RefineConfig,
    advance=lambda: None,
) -> Motion:  # fmt: skip
    frames = (capture.frames[int(i)] for i in indices)
    return refine_motion(
        avatar.model, frames, motion, track.camera, lambda k: _person(track, int(indices[k])), config, advance
    )


def _person(track: Track, index: int) -> np.ndarray:
    """Weight of each pixel: the person counts, the video's backdrop is not the avatar's."""
    return track.regions.matte(index).astype(np.float32) / 255


def _likeness(avatar: Avatar, capture: Capture, track: Track, indices: np.ndarray, motion: Motion) -> float:
    """PSNR in dB over the person's pixels of some frames."""
    error = total = 0.0
    for index, image in zip(indices, avatar.frames(motion, camera=track.camera), strict=True):
        weight = _person(track, int(index))
        difference = (image.astype(np.float32) - capture.frames[int(index)].astype(np.float32)) / 255
        error += float((weight * (difference**2).mean(axis=2)).sum())
        total += float(weight.sum())
    return float(-10 * np.log10(error / max(total, 1e-6) + 1e-12))
