"""The lining: invisible from where the clip looks, there when the head turns further."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from avatar.config import BranchConfig, ModelConfig
from avatar.dataset import FrameSet, MotionBatch
from avatar.geometry import matrix_from_euler
from avatar.model import AvatarModel, add_lining, initial_model
from avatar.model.lining import LEAST_Z_CM, SPACING_CM

BRANCHES = (BranchConfig(2500, 2), BranchConfig(40, 2), BranchConfig(400, 3))
DENSE = ModelConfig(*BRANCHES, driver_hidden=4, start_fraction=1.0)


@pytest.fixture()
def frames(person) -> FrameSet:
    return FrameSet(*person, torch.device("cpu"))


@pytest.fixture()
def plain(frames) -> AvatarModel:
    """Not fitted, but as closed a shell as a fitted model's."""
    model = initial_model(frames, DENSE, seed=0).eval().requires_grad_(False)
    for name in ("face", "torso"):
        model.branch(name).opacity_logits.fill_(5.0)
        model.branch(name).log_scales += 0.5
    return model


@pytest.fixture()
def lined(plain, frames) -> AvatarModel:
    model = copy.deepcopy(plain)
    assert add_lining(model, frames) == model.count - plain.count > 100
    return model


def turned(frames: FrameSet, degrees: float) -> MotionBatch:
    motion = frames.motion_of(torch.tensor([0]))
    turn = torch.from_numpy(matrix_from_euler(np.radians([degrees, 0.0, 0.0]))).float()
    head = torch.cat([turn @ motion.camera_from_head[:, :, :3], motion.camera_from_head[:, :, 3:]], dim=2)
    return MotionBatch(motion.coefficients, head, motion.camera_from_torso)


def test_it_does_not_show_in_the_frames_of_the_clip(plain, lined, frames):
    motion = frames.motion_of(torch.arange(0, 22, 3))
    change = (plain(motion).image - lined(motion).image).abs()
    assert float(change.mean()) < 2e-3 and float(change.flatten(1).quantile(0.99)) < 0.03


def test_it_closes_what_a_turned_head_opens(plain, lined, frames):
    motion = turned(frames, 40.0)
    before, after = plain(motion), lined(motion)
    assert float((after.alpha - before.alpha).min()) > -1e-4
    # somewhere the backdrop was seen through the head, and no longer is
    opened = (after.alpha > 0.9) & (before.alpha < 0.5)
    assert int(opened.sum()) > 20
    skin = torch.tensor([210, 160, 130]) / 255
    assert float((after.image[opened] - skin).abs().median()) < 0.12


def test_it_has_no_motion_of_its_own_and_leaves_the_other_branches_alone(plain, lined):
    torso, count = lined.branch("torso"), plain.branch("torso").count
    assert torch.equal(torso.means[:count], plain.branch("torso").means)
    assert torch.equal(torso.bases[:, :count], plain.branch("torso").bases)
    lining = torso.means[count:]
    assert not torso.bases[:, count:].any() and float(lining[:, 2].min()) >= LEAST_Z_CM
    assert float(torch.sigmoid(torso.skin_logits[count:][lining[:, 1] > 0]).min()) > 0.9  # carried by the head
    spacing = torch.cdist(lining, lining).fill_diagonal_(torch.inf).min(dim=1).values
    assert float(spacing.max()) < 1.5 * SPACING_CM  # neighbours overlap
    assert lined.branch("face").count == plain.branch("face").count


def test_nothing_is_lined_without_a_surface(frames):
    model = initial_model(frames, DENSE, seed=0).eval().requires_grad_(False)
    model.branch("face").opacity_logits.fill_(-5.0)
    before = model.count
    assert add_lining(model, frames) == 0 and model.count == before
