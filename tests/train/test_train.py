"""The loop: it learns, resumes to the same result, keeps budgets, stops on Ctrl-C; corrections find a shift."""

from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, DensityConfig, FitConfig, ModelConfig, TrainConfig
from avatar.conventions import BRANCHES, CODES
from avatar.dataset import FrameSet, MotionBatch
from avatar.errors import UserError
from avatar.model import Branch, initial_model
from avatar.train import STAGES, Trainer, checkpoint_path, load_checkpoint, read_metrics
from avatar.train.checkpoint import checkpoint_model, save_checkpoint
from avatar.train.corrections import Corrections, apply_correction
from avatar.train.density import adapt, resize
from avatar.train.losses import pixel_weights
from avatar.train.stages import PARAMETER_GROUPS, stage_at

CONFIG = FitConfig(
    model=ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3)),
    train=TrainConfig(steps=48, density=DensityConfig(every=8), checkpoint_every=24, score_every=24),
)


@pytest.fixture()
def frames(person):
    capture, track = person
    codes = np.random.default_rng(0).normal(size=(len(track.times), sum(CODES.values()))).astype(np.float32)
    return FrameSet(capture, dataclasses.replace(track, codes=codes), torch.device("cpu"))


@pytest.fixture(params=["basis", "hashgrid"])
def config(request) -> FitConfig:
    """The small fit with each motion field."""
    return dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, motion=request.param))


def trainer(frames, folder, config=CONFIG) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(frames, initial_model(frames, config.model, 0), config, folder)


def test_training_lifts_the_held_out_score_and_logs_it(tmp_path, frames, config) -> None:
    t = trainer(frames, tmp_path / "run", config)
    before, _ = t.score()
    assert t.run()
    assert t.curve[-1]["psnr"] > before + 2.0
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["step"] == 48 and "held_out/psnr" in lines[-1]
    assert t.model.branch("face").count == 300  # grown to its budget


def test_the_backdrop_is_learned_only_where_the_person_leaves_it_uncovered(tmp_path, frames) -> None:
    t = trainer(frames, tmp_path)
    before = t.model.backdrop.detach().clone()
    t.run()
    changed = (t.model.backdrop.detach() - before).abs().amax(dim=-1) > 0
    always = np.minimum.reduce([frames.track.regions.matte(i) for i in range(len(frames))]) > 0
    assert not changed.numpy()[always].any() and changed.numpy()[~always].mean() > 0.9


def test_resumed_run_ends_with_the_same_bits(tmp_path, frames, config) -> None:
    whole = trainer(frames, tmp_path / "whole", config)
    whole.run()
    first = trainer(frames, tmp_path / "parts", config)
    stop_after(first, 24)
    assert not first.run()
    second = trainer(frames, tmp_path / "parts", config)
    load_checkpoint(second, checkpoint_path(tmp_path / "parts"))
    assert second.step == 24
    assert second.run()
    for (name, a), (_, b) in zip(whole.model.named_parameters(), second.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(whole.corrections.values, second.corrections.values)
    shown = checkpoint_model(checkpoint_path(tmp_path / "parts"), frames.camera, config.model.driver_hidden)
    motion = frames.motion_of(torch.arange(3))
    assert torch.equal(shown.features(motion)["face"], second.model.features(motion)["face"])
    assert whole.curve == second.curve


def stop_after(t: Trainer, step: int) -> None:
    """Ctrl-C at a step, as the terminal sends it."""
    inner = t._after_step

    def after(*args):
        inner(*args)
        if t.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    t._after_step = after


def test_nothing_to_resume_and_a_damaged_checkpoint(tmp_path, frames) -> None:
    t = trainer(frames, tmp_path / "run")
    with pytest.raises(UserError, match="nothing to resume"):
        load_checkpoint(t, checkpoint_path(tmp_path / "run"))
    path = checkpoint_path(tmp_path / "run")
    path.parent.mkdir()
    path.write_bytes(b"\x10" * 64)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(t, path)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, frames) -> None:
    path = checkpoint_path(tmp_path)
    save_checkpoint(trainer(frames, tmp_path), path)
    longer = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=96))
    with pytest.raises(UserError, match="was made with other settings; run again without --resume"):
        load_checkpoint(trainer(frames, tmp_path, longer), path)
    load_checkpoint(trainer(frames, tmp_path), path)
    with safe_open(path, framework="pt") as file:
        early = {key: value for key, value in file.metadata().items() if key != "settings"}
    save_file(load_file(path), path, early)
    load_checkpoint(trainer(frames, tmp_path, longer), path)  # does not say with which it was made


def test_stages_cover_all_steps_in_order() -> None:
    names = [stage_at(s, 100).name for s in range(100)]
    assert list(dict.fromkeys(names)) == [s.name for s in STAGES]
    assert names.count("coarse") == 25
    for stage in STAGES:
        assert set(stage.free) <= set(PARAMETER_GROUPS)


def test_every_training_frame_is_drawn_once_per_epoch(tmp_path, frames) -> None:
    t = trainer(frames, tmp_path / "run")
    n = len(frames.train_indices)
    drawn = []
    for t.step in range(2 * n):
        drawn += t._drawn_frames().tolist()
    assert sorted(drawn[:n]) == sorted(drawn[n:]) == frames.train_indices.tolist()
    assert drawn[:n] != drawn[n:]


def test_steps_leave_out_gaussians_and_at_last_none(tmp_path, frames) -> None:
    t = trainer(frames, tmp_path / "run")
    drawn, inner = [], t.model.forward

    def forward(*args, shown=None, **options):
        drawn.append(shown)
        return inner(*args, shown=shown, **options)

    t.model.forward = forward
    t.run()
    steps = [shown for shown in drawn if shown is not None]
    assert len(steps) == CONFIG.train.steps * 3 // 4  # all but the stage that settles; scores are of all Gaussians too
    last, share = steps[-1], CONFIG.train.left_out
    assert {round(float(v), 4) for v in last.unique()} == {0.0, round(1 / (1 - share), 4)}
    assert 0.4 * share < float((last == 0).float().mean()) < 2 * share
    assert not torch.equal(last, steps[-2])
    t.step = len(steps) - 1
    assert torch.equal(t._shown(), last)  # as a resumed run would
    everyone = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, left_out=0.0))
    assert trainer(frames, tmp_path / "everyone", everyone)._shown() is None


def branch_with_optimizer(count: int = 10) -> tuple[Branch, torch.optim.Adam]:
    branch = Branch(count, 2)
    torch.nn.init.normal_(branch.means)
    torch.nn.init.constant_(branch.log_scales, -1.0)
    groups = [{"name": k, "params": [p]} for k, p in branch.named_parameters()]
    optimizer = torch.optim.Adam(groups, lr=1e-3, fused=True)
    branch(torch.ones(1, 2)).means.square().sum().backward()
    optimizer.step()
    return branch, optimizer


def test_growth_splits_where_the_score_is_and_stops_at_the_budget() -> None:
    branch, optimizer = branch_with_optimizer()
    score = torch.zeros(10)
    score[3] = 1.0
    place = branch.means[3].clone()
    added = adapt(branch, optimizer, score, 11, DensityConfig(growth=2.0), torch.Generator().manual_seed(0))
    assert added == 1 and branch.count == 11
    assert torch.allclose((branch.means[3] + branch.means[10]) / 2, place, atol=1e-6)
    assert (branch.log_scales[[3, 10]] < -1.3).all() and branch.bases.shape[1] == 11
    adapt(branch, optimizer, torch.ones(11), 11, DensityConfig(), torch.Generator().manual_seed(0))
    assert branch.count == 11


def test_dead_gaussians_move_to_where_they_are_needed() -> None:
    branch, optimizer = branch_with_optimizer()
    with torch.no_grad():
        branch.opacity_logits[7] = -9.0
    score = torch.zeros(10)
    score[2] = 1.0
    adapt(branch, optimizer, score, 10, DensityConfig(), torch.Generator().manual_seed(0))
    assert branch.count == 10 and torch.sigmoid(branch.opacity_logits).min() > 0.4
    assert (branch.means[7] - branch.means[2]).norm() < 3.0


def test_resize_carries_moments_and_forgets_fresh_ones() -> None:
    branch, optimizer = branch_with_optimizer()
    moments = optimizer.state[branch.means]["exp_avg"].clone()
    index = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 4])
    resize(branch, optimizer, index, torch.tensor([4, 10]))
    kept = optimizer.state[branch.means]["exp_avg"]
    assert torch.equal(kept[0], moments[0]) and torch.equal(kept[[4, 10]], torch.zeros(2, 3))
    assert any(branch.means is p for g in optimizer.param_groups for p in g["params"])


def test_corrections_start_at_nothing_and_move_only_drawn_frames() -> None:
    corrections = Corrections(5)
    pose = torch.eye(3, 4)[None].repeat(2, 1, 1)
    motion = MotionBatch(torch.zeros(2, 52), pose, pose)
    indices = torch.tensor([1, 3])
    moved, size = corrections(indices, motion)
    assert torch.equal(moved.camera_from_head, pose) and size == 0
    moved.camera_from_head[:, 0, 3].sum().backward()
    corrections.step(indices, 0.5)
    assert torch.allclose(corrections.values[1, 3], torch.tensor(-0.5)) and corrections.values[0].abs().sum() == 0


def test_a_correction_is_a_rigid_motion() -> None:
    moved = apply_correction(torch.eye(3, 4)[None], torch.randn(1, 6) * 10)
    rotation = moved[0, :, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5) and torch.det(rotation) > 0


def test_pixel_weights_have_mean_one_and_favour_the_mouth(frames) -> None:
    batch = frames.batch(np.array([0]))
    weights = pixel_weights(batch, 3.0)
    left, top, right, bottom = batch.mouth_boxes[0].tolist()
    assert abs(float(weights.mean()) - 1) < 1e-5
    assert torch.allclose(weights[0, top, left] / weights[0, 0, 0], torch.tensor(3.0))
    assert (bottom - top) * (right - left) < weights[0].numel()


def test_stages_can_be_replaced(tmp_path, frames) -> None:
    """A stage is data: one that frees only the backdrop leaves every Gaussian where it is."""
    stage = dataclasses.replace(STAGES[0], name="backdrop", share=1.0, free=("backdrop",), density=False)
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=2))
    folder = tmp_path / "run"
    folder.mkdir()
    t = Trainer(frames, initial_model(frames, config.model, 0), config, folder, stages=(stage,))
    before = {n: t.model.branch(n).means.clone() for n in BRANCHES}
    plate = t.model.backdrop.clone()
    t.run()
    assert all(torch.equal(t.model.branch(n).means, before[n]) for n in BRANCHES)
    assert not torch.equal(t.model.backdrop, plate)
