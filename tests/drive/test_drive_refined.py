"""A driving video refines the motion only where it shows the avatar's own person."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from avatar.config import BranchConfig, DensityConfig, FitConfig, ModelConfig, TrainConfig
from avatar.conventions import BLENDSHAPE_INDEX, CODES
from avatar.dataset import FrameSet, motion_tensors
from avatar.drive.refined import refined_motion
from avatar.drive.sources import resampled, video_source
from avatar.model import Avatar, Metadata, initial_model
from avatar.progress import SILENT
from avatar.speech import person_statistics
from avatar.train import Trainer
from avatar.types import Capture, Motion, Provenance, Track

CONFIG = FitConfig(
    model=ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3)),
    train=TrainConfig(steps=60, density=DensityConfig(every=8), checkpoint_every=1000, score_every=1000),
)
FRAMES = 12


def shortened(part):
    """The first frames of a capture or track."""
    if isinstance(part, Capture):
        return dataclasses.replace(part, frames=type(part.frames)(part.frames[:FRAMES]), times=part.times[:FRAMES])
    names = ("times", "valid", "camera_from_head", "camera_from_torso", "coefficients", "landmarks")
    return dataclasses.replace(part, **{name: getattr(part, name)[:FRAMES] for name in names})


@pytest.fixture()
def someone(person, tmp_path) -> tuple[Avatar, Capture, Track]:
    """A small avatar with the clip and the track it was made from."""
    capture, track = (shortened(part) for part in person)
    codes = np.random.default_rng(0).normal(size=(FRAMES, sum(CODES.values()))).astype(np.float32)
    codes[:, 0] = track.coefficients[:, BLENDSHAPE_INDEX["jawOpen"]]
    track = dataclasses.replace(track, codes=codes)
    (tmp_path / "run").mkdir()
    frames = FrameSet(capture, track, torch.device("cpu"))
    model = initial_model(frames, CONFIG.model, 0)
    Trainer(frames, model, CONFIG, tmp_path / "run").run()
    pose = {name: getattr(track, name)[0, :3].tolist() for name in ("camera_from_head", "camera_from_torso")}
    metadata = Metadata(
        camera=track.camera, provenance=Provenance("made", "0" * 64, "0", "now"), fps=25.0, reference_pose=pose,
        hidden=CONFIG.model.driver_hidden,
    )  # fmt: skip
    return Avatar(model, metadata, person_statistics(track), None), capture, track


def motion_of(track: Track) -> Motion:
    return Motion(track.times, track.coefficients, track.camera_from_head, track.camera_from_torso)


def test_the_same_person_is_refined_towards_the_picture(someone) -> None:
    avatar, capture, track = someone
    moved = track.camera_from_head.copy()
    moved[:, 0, 3] += 0.5  # a tracker's mistake, cm
    valid = track.valid.copy()
    valid[5] = False
    wrong = dataclasses.replace(track, camera_from_head=moved, valid=valid)
    clean = dataclasses.replace(track, valid=valid)
    found = refined_motion(avatar, motion_of(wrong), capture, clean, SILENT)
    away = np.abs(found.camera_from_head[:, 0, 3] - track.camera_from_head[:, 0, 3])
    assert away[valid].mean() < 0.25
    np.testing.assert_array_equal(found.camera_from_head[5], moved[5])  # no face there: nothing to compare with
    likely = avatar.model.features.likeliest_codes(motion_tensors(motion_of(wrong), torch.device("cpu")))
    assert found.codes is not None and likely is not None
    np.testing.assert_allclose(found.codes[5], likely[5].numpy(), atol=1e-6)
    assert np.abs(found.codes - likely.numpy()).max() > 1e-3


def test_another_person_s_video_is_followed_as_tracked(someone) -> None:
    avatar, capture, track = someone
    stranger = dataclasses.replace(capture, frames=type(capture.frames)(255 - f for f in capture.frames))
    motion = video_source(avatar, track, None)
    assert refined_motion(avatar, motion, stranger, track, SILENT) is motion


def test_codes_follow_an_edit_and_a_new_frame_rate(someone) -> None:
    avatar, _, track = someone
    before = dataclasses.replace(motion_of(track), codes=track.codes)
    opened, jaw = before.coefficients.copy(), BLENDSHAPE_INDEX["jawOpen"]
    opened[:, jaw] = opened[:, jaw].max()
    after = avatar.with_codes_along(before, dataclasses.replace(before, coefficients=opened))
    moved = (after.codes - before.codes)[:, 0]  # the first code is the jaw's
    np.testing.assert_allclose(moved, moved.max() * (opened - before.coefficients)[:, jaw], atol=0.1)
    assert moved.max() > 0.2
    blind = dataclasses.replace(before, codes=None)
    assert avatar.with_codes_along(blind, blind) is blind
    doubled = resampled(before, 50.0)
    np.testing.assert_allclose(doubled.codes[::2], before.codes, atol=1e-4)
    assert resampled(blind, 50.0).codes is None
