"""Exposure drift: found where it is, left alone where it is not, and out of the way of the fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from avatar.dataset import FrameSet
from avatar.types import Capture, Track


def drifting(person: tuple[Capture, Track], gains: np.ndarray) -> FrameSet:
    """The person filmed by a camera that changes its gains [N, 3]."""
    capture, track = person
    pairs = zip(capture.frames, gains, strict=True)
    frames = type(capture.frames)([(frame * gain + 0.5).clip(0, 255).astype(np.uint8) for frame, gain in pairs])
    return FrameSet(dataclasses.replace(capture, frames=frames), track, torch.device("cpu"))


@pytest.fixture()
def gains(person) -> np.ndarray:
    swing = 0.12 * np.sin(np.arange(len(person[1].times)) * 0.6)
    return 1 + swing[:, None] * [1.0, 0.9, 0.7]


def test_gains_are_found_and_taken_out(person, gains) -> None:
    frames = drifting(person, gains)
    assert frames.exposure.drifts and frames.exposure.spread == pytest.approx(gains.std(axis=0).max(), rel=0.1)
    for i in (0, 3, 9, 21):
        np.testing.assert_allclose(frames.exposure.gain(i), gains[i], rtol=0.012)
        original = person[0].frames[i].astype(int)
        unclipped = original.max(axis=-1) * gains[i].max() < 250
        assert np.abs(frames.picture(i).astype(int) - original)[unclipped].mean() < 1.2
        again = frames.exposure.applied(person[0].frames[i], i).astype(int)
        assert np.abs(again - frames.capture.frames[i])[unclipped].mean() < 1.2
    batch = frames.batch(np.array([3]))
    np.testing.assert_array_equal((batch.images[0] * 255).round().numpy(), frames.picture(3))


def test_a_steady_camera_is_left_alone(person) -> None:
    frames = FrameSet(*person, torch.device("cpu"))
    assert not frames.exposure.drifts and np.array_equal(frames.exposure.gain(5), np.ones(3))
    assert frames.picture(5) is person[0].frames[5]
    noise = np.random.default_rng(0).normal(1, 0.004, (len(frames), 3))  # a studio camera's
    assert not drifting(person, noise).exposure.drifts


def test_a_black_stretch_is_no_drift(person) -> None:
    capture, track = person
    gains, valid = np.ones((len(track.times), 3)), track.valid.copy()
    gains[4:8], valid[4:8] = 0.0, False
    assert not drifting((capture, dataclasses.replace(track, valid=valid)), gains).exposure.drifts


def test_without_backdrop_in_sight_nothing_is_said(person, gains) -> None:
    capture, track = person
    full = np.full(track.backdrop.shape[:2], 255, np.uint8)
    regions = type("Everywhere", (), {"matte": lambda self, i: full, "labels": track.regions.labels})()
    frames = drifting((capture, dataclasses.replace(track, regions=regions)), gains)
    assert not frames.exposure.drifts
