"""Analysis by synthesis: it finds a motion that the picture tells, and leaves alone what it does not tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from avatar.config import BranchConfig, DensityConfig, FitConfig, ModelConfig, TrainConfig
from avatar.conventions import BLENDSHAPE_INDEX, CODES
from avatar.dataset import FrameSet, motion_tensors
from avatar.geometry import matrix_from_rotvec, rotvec_from_matrix
from avatar.model import AvatarModel, initial_model, own_motion
from avatar.train import Trainer
from avatar.train.refine import RefineConfig, refine_motion
from avatar.types import Motion

CONFIG = FitConfig(
    model=ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3)),
    train=TrainConfig(steps=60, density=DensityConfig(every=8), checkpoint_every=1000, score_every=1000),
)
FEW = (0, 4, 9, 13)


@pytest.fixture()
def scene(person, tmp_path) -> tuple[AvatarModel, Motion, list[np.ndarray], FrameSet]:
    """A fitted model, a true motion, and the pictures that the model shows under it."""
    frames = FrameSet(*person, torch.device("cpu"))
    model = initial_model(frames, CONFIG.model, 0)
    Trainer(frames, model, CONFIG, tmp_path).run()
    few, track = np.array(FEW), frames.track
    motion = Motion(
        track.times[few], track.coefficients[few], track.camera_from_head[few], track.camera_from_torso[few]
    )
    with torch.no_grad():
        images = model(frames.motion_of(torch.from_numpy(few))).image
    return model, motion, list(images.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()), frames


def shaken(motion: Motion, degrees: float, shift_cm: float, jaw: float) -> Motion:
    """The motion with a constant mistake, as a tracker makes it."""
    head = motion.camera_from_head.copy()
    head[:, :3, :3] = matrix_from_rotvec(np.radians([0, 0, degrees])) @ head[:, :3, :3]
    head[:, 0, 3] += shift_cm
    coefficients = motion.coefficients.copy()
    coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] = (coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] + jaw).clip(0, 1)
    return Motion(motion.times, coefficients, head, motion.camera_from_torso)


def errors(found: Motion, true: Motion) -> tuple[float, float]:
    """Mean error of the head's roll in degrees and of its place across the picture in cm."""
    between = np.swapaxes(true.camera_from_head[:, :3, :3], 1, 2) @ found.camera_from_head[:, :3, :3]
    roll = np.degrees(np.abs(rotvec_from_matrix(between)[:, 2]).mean())
    return float(roll), float(np.abs(found.camera_from_head[:, 0, 3] - true.camera_from_head[:, 0, 3]).mean())


def test_a_tracker_s_mistake_is_found_in_the_picture_and_the_model_stays(scene) -> None:
    model, true, pictures, frames = scene
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = shaken(true, degrees=2.0, shift_cm=0.4, jaw=0.1)
    found = refine_motion(model, iter(pictures), wrong, frames.camera)
    (roll, shift), (roll_before, shift_before) = errors(found, true), errors(wrong, true)
    assert shift < 0.4 * shift_before and roll < 0.9 * roll_before, (roll, shift)
    assert found.coefficients.min() >= 0 and found.coefficients.max() <= 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_true_motion_stays_where_it_is(scene) -> None:
    model, true, pictures, frames = scene
    roll, shift = errors(refine_motion(model, iter(pictures), true, frames.camera), true)
    assert roll < 0.5 and shift < 0.05, (roll, shift)


def test_what_the_picture_does_not_tell_stays_as_tracked(scene) -> None:
    model, true, pictures, frames = scene
    wrong = shaken(true, degrees=2.0, shift_cm=0.4, jaw=0.0)
    nothing = np.zeros(pictures[0].shape[:2], np.float32)
    found = refine_motion(model, iter(pictures), wrong, frames.camera, lambda k: nothing)
    np.testing.assert_allclose(found.camera_from_head, wrong.camera_from_head, atol=1e-5)
    np.testing.assert_allclose(found.coefficients, wrong.coefficients, atol=1e-6)


def test_appearance_codes_are_found_along_from_the_likeliest(person, tmp_path) -> None:
    capture, track = person
    codes = np.random.default_rng(0).normal(size=(len(track.times), sum(CODES.values()))).astype(np.float32)
    frames = FrameSet(capture, dataclasses.replace(track, codes=codes), torch.device("cpu"))
    model = initial_model(frames, CONFIG.model, 0)
    Trainer(frames, model, CONFIG, tmp_path).run()
    with torch.no_grad():
        model.branch("face").bases[..., -4:-1] += 0.5  # colours that follow every code
    few = np.array(FEW)
    true = frames.motion_of(torch.from_numpy(few))
    wild = dataclasses.replace(true, codes=true.codes + 1.0)
    blind = dataclasses.replace(own_motion(track).at(few), codes=None)

    def drawn(motion) -> torch.Tensor:
        with torch.no_grad():
            return model(motion).image.clamp(0, 1)

    pictures = drawn(wild)
    seen = list(pictures.mul(255).round().to(torch.uint8).numpy())

    def error(config: RefineConfig) -> float:
        found = refine_motion(model, iter(seen), blind, frames.camera, config=config)
        assert found.codes is not None and found.codes.shape == codes[few].shape
        return float((drawn(motion_tensors(found, torch.device("cpu"))) - pictures).abs().mean())

    freely, held = error(RefineConfig()), error(RefineConfig(code_rate=0.0))
    assert freely < 0.9 * held, (freely, held)
