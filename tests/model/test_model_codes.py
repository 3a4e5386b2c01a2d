"""Appearance codes in the model: heard where a picture gave them, expected from the motion elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import BLENDSHAPE_INDEX, CODES
from avatar.dataset import FrameSet, MotionBatch
from avatar.errors import UserError
from avatar.model import AvatarModel, initial_model, own_motion
from avatar.model.file import load_avatar_file
from avatar.model.own_motion import motion_from_tensors, motion_to_tensors

SMALL = ModelConfig(face=BranchConfig(60, 4), mouth=BranchConfig(20, 3), torso=BranchConfig(40, 3), driver_hidden=8)
WIDTH = sum(CODES.values())


def codes_of(track) -> np.ndarray:
    """The first head code follows the jaw, the last torso code the torso's place; the others are noise."""
    codes = np.random.default_rng(1).normal(size=(len(track.times), WIDTH)).astype(np.float32)
    jaw = track.coefficients[:, BLENDSHAPE_INDEX["jawOpen"]]
    codes[:, 0] = 3.0 * (jaw - jaw.mean()) + 0.5
    codes[:, -1] = track.camera_from_torso[:, 0, 3]
    return codes


@pytest.fixture()
def fitted(person) -> tuple[AvatarModel, FrameSet]:
    capture, track = person
    frames = FrameSet(capture, dataclasses.replace(track, codes=codes_of(track)), torch.device("cpu"))
    return initial_model(frames, SMALL, seed=0).eval().requires_grad_(False), frames


def without(motion: MotionBatch) -> MotionBatch:
    return dataclasses.replace(motion, codes=None)


def test_codes_move_face_and_torso_and_leave_the_mouth(fitted) -> None:
    model, frames = fitted
    motion = frames.training_motion()
    assert motion.codes is not None
    moved = dataclasses.replace(motion, codes=motion.codes + 1.0)
    before, after = model.features(motion), model.features(moved)
    torch.testing.assert_close(after["mouth"], before["mouth"], rtol=0, atol=0)
    heard = CODES["head_codes"] + CODES["mouth_codes"]
    torch.testing.assert_close(after["face"][:, -heard:], before["face"][:, -heard:] + 1)
    torch.testing.assert_close(after["torso"][:, -CODES["torso_codes"] :].mean(0), torch.ones(CODES["torso_codes"]))
    assert after["face"].shape[1] == model.features.width("face") == 52 + 3 + heard


def test_without_a_picture_codes_are_what_the_motion_makes_likely(fitted) -> None:
    model, frames = fitted
    motion = frames.training_motion()
    likely = model.features.likeliest_codes(motion)
    assert likely is not None and motion.codes is not None
    for column in (0, WIDTH - 1):
        assert torch.corrcoef(torch.stack([likely[:, column], motion.codes[:, column]]))[0, 1] > 0.95
    expected = model.features(dataclasses.replace(motion, codes=likely))
    for name, values in model.features(without(motion)).items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-5)
    # the mean motion shows the canonical Gaussians, codes or not
    f = model.features
    rest = MotionBatch(f.coefficient_mean[None], f.mean_head[None], f.mean_torso[None])
    assert all(values.abs().max() < 1e-5 for values in model.features(rest).values())


def test_a_coefficient_that_never_moved_makes_no_code_likely(fitted) -> None:
    model, frames = fitted
    motion = without(frames.training_motion().at(torch.zeros(1, dtype=torch.long)))
    changed = motion.coefficients.clone()
    changed[:, BLENDSHAPE_INDEX["cheekPuff"]] = 1.0
    before, after = (
        model.features.likeliest_codes(m) for m in (motion, dataclasses.replace(motion, coefficients=changed))
    )
    assert torch.equal(before, after)


def test_a_head_that_turns_further_than_ever_looks_hardly_further_from_its_mean(fitted) -> None:
    model, frames = fitted
    motion = without(frames.training_motion())
    usual = model.features.likeliest_codes(motion)
    turned = motion.camera_from_head.clone()
    turned[:, :, 3] += torch.tensor([30.0, 0.0, 0.0])
    codes = model.features.likeliest_codes(dataclasses.replace(motion, camera_from_head=turned))
    assert usual is not None and codes is not None
    low, high = usual.amin(0), usual.amax(0)
    room = 0.11 * (high - low) + 1e-5
    assert ((codes > low - room) & (codes < high + room)).all()
    assert (codes - usual).abs().max() > 0.5


def test_a_track_without_codes_makes_a_model_without(person) -> None:
    frames = FrameSet(*person, torch.device("cpu"))
    model = initial_model(frames, SMALL, seed=0)
    assert model.features.code_map is None and model.features.likeliest_codes(frames.training_motion()) is None
    assert model.features.width("face") == 55


def test_files_keep_the_map_and_refuse_a_damaged_one(fitted, saved) -> None:
    model, frames = fitted
    path = saved(model, frames, SMALL.driver_hidden)
    loaded = load_avatar_file(path)[0]
    motion = without(frames.training_motion())
    for name, values in loaded.weights(motion).items():
        torch.testing.assert_close(values, model.weights(motion)[name], rtol=0, atol=1e-6)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    whole = load_file(path)
    for damaged in (
        {"features.code_map": whole["features.code_map"][:, :5].contiguous()},
        {"features.code_mean": None},
    ):
        tensors = {k: v for k, v in {**whole, **damaged}.items() if v is not None}
        save_file(tensors, path, metadata=header)
        with pytest.raises(UserError, match="damaged"):
            load_avatar_file(path)


def test_the_clip_s_own_motion_keeps_its_codes(fitted) -> None:
    _, frames = fitted
    motion = own_motion(frames.track)
    assert motion.codes is not None
    tensors = motion_to_tensors(motion)
    back = motion_from_tensors(tensors)
    assert back is not None and back.codes is not None
    np.testing.assert_allclose(back.codes, motion.codes, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(back.at(np.array([3])).codes, back.codes[[3]])
    del tensors["codes"]
    older = motion_from_tensors(tensors)
    assert older is not None and older.codes is None and older.at(slice(2)).codes is None
    with pytest.raises(ValueError, match="codes"):
        motion_from_tensors({**tensors, "codes": torch.zeros(2, 3)})
