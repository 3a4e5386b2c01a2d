"""Which motion the scores are of."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from avatar.conventions import CODES
from avatar.dataset import FrameSet
from avatar.evaluate.held_out import STRETCH, evaluated_indices, tracked_motion
from avatar.model import own_motion
from avatar.speech import heard_frames
from avatar.types import SpeechFeatures


def test_codes_count_for_the_avatar_s_own_clip_alone(small_avatar, person) -> None:
    capture, track = person
    codes = np.random.default_rng(0).normal(size=(len(track.times), sum(CODES.values()))).astype(np.float32)
    theirs = dataclasses.replace(track, codes=codes + 1)  # the same clip tracked again, say at another size
    small_avatar.motion = own_motion(dataclasses.replace(track, codes=codes))
    chosen = np.array([3, 7])

    def found(capture, track):
        return tracked_motion(small_avatar, FrameSet(capture, track, torch.device("cpu")), chosen).codes

    np.testing.assert_array_equal(found(capture, theirs), codes[chosen])
    assert found(dataclasses.replace(capture, source_sha256="1" * 64), theirs) is None
    assert found(capture, dataclasses.replace(theirs, times=track.times + 0.5)) is None
    small_avatar.motion = None
    assert found(capture, theirs) is None


def test_of_a_long_part_stretches_are_scored(person) -> None:
    capture, track = person
    frames = FrameSet(capture, track, torch.device("cpu"))
    frames.held_out_indices = np.arange(1000, 1500)
    chosen = evaluated_indices(frames, 240)
    assert len(chosen) == len(set(chosen)) == 240 and (np.diff(chosen) > 0).all()
    assert chosen[0] == 1000 and chosen[-1] == 1499 and (np.diff(chosen) > 1).sum() == 240 // STRETCH - 1
    for most in (None, 500, 501):
        np.testing.assert_array_equal(evaluated_indices(frames, most), frames.held_out_indices)
    assert len(evaluated_indices(frames, 499)) == 480


def test_a_mouth_of_which_nothing_is_heard_says_nothing_of_the_speech_model() -> None:
    """Sound that lies 0.1 s later than the picture ends 0.1 s before it."""
    times = np.arange(0, 2, 0.01) - 0.1
    features = SpeechFeatures(np.zeros((len(times), 4), np.float32), times, 0.1)
    frames = np.arange(50) / 25
    np.testing.assert_array_equal(heard_frames(features, frames), frames < 1.9)
