"""Soft limits: nothing changes within the clip's own motion, nothing explodes beyond it, and the file keeps them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import BRANCHES
from avatar.dataset import FrameSet, MotionBatch
from avatar.errors import UserError
from avatar.model import initial_model
from avatar.model.file import load_avatar_file
from avatar.model.limits import (
    FEATURE_FLOOR,
    FEATURE_REACH,
    WEIGHT_MARGIN,
    WEIGHT_REACH,
    BranchLimits,
    SoftRange,
    soft_limit,
)  # fmt: skip

SMALL = ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), driver_hidden=8)


@pytest.fixture()
def frames(person):
    capture, track = person
    return FrameSet(capture, track, torch.device("cpu"))


@pytest.fixture()
def model(frames):
    return initial_model(frames, SMALL, seed=0)


def train_motion(frames: FrameSet) -> MotionBatch:
    return frames.training_motion()


def beyond(frames: FrameSet, factor: float) -> MotionBatch:
    """Every coefficient far above its mean, as no frame has it."""
    motion = train_motion(frames)
    return dataclasses.replace(motion, coefficients=motion.coefficients + factor)


def test_soft_limit_is_the_identity_inside_smooth_at_the_edge_and_bounded_outside() -> None:
    low, high = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    x = torch.linspace(-60.0, 60.0, 2401, dtype=torch.float64)[:, None]
    y = soft_limit(x, low, high, 0.5)
    inside = (x >= -1) & (x <= 3)
    assert torch.equal(y[inside], x[inside])
    assert bool((y.diff(dim=0) > 0).all())  # a slider never turns back
    assert float(y.max()) < 5.0 and float(y.min()) > -3.0  # reach 0.5 of the width 4 is 2
    assert float(soft_limit(torch.tensor([[5.0]], dtype=torch.float64), low, high, 0.5)) == pytest.approx(4.0)  # 2*2/4
    edge = torch.tensor([[3.0 + 1e-5]], dtype=torch.float64)
    slope = (float(soft_limit(edge, low, high, 0.5)) - 3.0) / 1e-5
    assert slope == pytest.approx(1.0, abs=1e-4)


def test_soft_limit_of_a_range_without_width_is_finite() -> None:
    point = torch.zeros(1)
    assert float(soft_limit(torch.tensor([[7.0]]), point, point, 0.5).abs()) < 1e-5


def test_gradients_agree_with_finite_differences() -> None:
    low, high = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    x = torch.tensor([[-3.0, 0.5], [0.4, 9.0], [2.0, -0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: soft_limit(v, low, high, 0.75), x)


def test_range_is_widened_and_has_a_floor() -> None:
    part = SoftRange(FEATURE_REACH)
    values = torch.tensor([[0.0, -0.1], [8.0, 0.1]])
    assert torch.equal(part(values * 100), values * 100)  # not measured yet
    part.measure(values, margin=0.25, floor=FEATURE_FLOOR)
    assert part.bounds is not None
    assert part.bounds.tolist() == [[-2.0, -2.0], [10.0, 2.0]]


def test_the_clips_own_motion_passes_unchanged(frames, model) -> None:
    motion = train_motion(frames)
    before = model.weights(motion)
    model.measure_limits(motion)
    after = model.weights(motion)
    for name in BRANCHES:
        assert torch.equal(before[name], after[name]), name


@torch.no_grad()
def test_coefficients_far_beyond_the_clip_keep_the_weights_near_its_own(frames, model) -> None:
    motion = train_motion(frames)
    own = model.weights(motion)
    wild = model.weights(beyond(frames, 5.0))
    model.measure_limits(motion)
    tame = model.weights(beyond(frames, 5.0))
    limits = model.branch_limits("face")
    reached = [((w["face"] - limits.middle) @ limits.whitening).norm(dim=1) for w in (own, wild, tame)]
    assert float(reached[0].max()) == pytest.approx(1 / (1 + WEIGHT_MARGIN), rel=1e-3)
    assert float(reached[1].max()) > 5
    assert float(reached[2].max()) < 1 + WEIGHT_REACH
    assert not torch.allclose(tame["face"], own["face"], atol=1e-2)  # it still moves


@torch.no_grad()
def test_all_weights_together_stay_near_the_clips_frames() -> None:
    limits = BranchLimits()
    circle = torch.linspace(0, 6.28, 200)
    own = torch.stack([circle.cos(), 2 * circle.sin() + 1], dim=1)  # an ellipse: its corners are never reached
    limits.measure(torch.zeros(200, 3), own)
    assert torch.equal(limits.limited_weights(own), own)
    corner = limits.limited_weights(torch.tensor([[1.0, 3.0], [-50.0, 101.0]]))
    length = ((corner - torch.tensor([0.0, 1.0])) / torch.tensor([1.0, 2.0])).norm(dim=1)
    assert bool((length < 1.1 * 1.15 * 1.03).all())
    assert float(corner[0, 0] / (corner[0, 1] - 1)) == pytest.approx(0.5, abs=0.03)  # shortened, not bent


def test_ranges_and_a_radius_of_an_early_file_still_limit() -> None:
    """A range of each weight and a radius: nothing within, everything far beyond near the radius."""
    limits = BranchLimits()
    limits.load_tensors({"weights": torch.tensor([[-1.0, 0.0], [1.0, 4.0]]), "radius": torch.tensor([1.2])}, 3, 2)
    inside = torch.tensor([[0.9, 2.5], [-0.5, 0.6]])
    assert torch.equal(limits.limited_weights(inside), inside)
    far = (limits.limited_weights(torch.tensor([[50.0, 2.0]])) - torch.tensor([0.0, 2.0])) / torch.tensor([1.0, 2.0])
    assert 1.2 < float(far.norm()) < 1.2 * (1 + WEIGHT_REACH) + 1e-4


def test_the_file_keeps_the_limits(frames, model, saved) -> None:
    model.measure_limits(train_motion(frames))
    loaded = load_avatar_file(saved(model, frames, SMALL.driver_hidden))[0]
    ours, theirs = model.weights(beyond(frames, 2.0)), loaded.weights(beyond(frames, 2.0))
    for name in BRANCHES:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_file_without_limits_loads_and_limits_nothing(frames, model, saved) -> None:
    loaded = load_avatar_file(saved(model, frames, SMALL.driver_hidden))[0]
    assert loaded.branch_limits("face").to_tensors() == {}
    assert torch.equal(loaded.weights(beyond(frames, 2.0))["face"], model.weights(beyond(frames, 2.0))["face"])


def test_damaged_limits_are_one_clear_sentence(frames, model, saved) -> None:
    model.measure_limits(train_motion(frames))
    path = saved(model, frames, SMALL.driver_hidden)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, "limits.face.features": tensors["limits.face.features"].flip(0).contiguous()}, path, header)
    with pytest.raises(UserError, match="damaged"):
        load_avatar_file(path)
    save_file({**tensors, "limits.face.whitening": tensors["limits.face.whitening"][:1].clone()}, path, header)
    with pytest.raises(UserError, match="damaged"):
        load_avatar_file(path)
