"""Fits that are cut off, on the tiny synthetic person: what is left, and what --resume makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import avatar.pipeline as pipeline
from avatar.config import BranchConfig, FitConfig, ModelConfig, TrainConfig
from avatar.errors import UserError
from avatar.model import Avatar
from avatar.pipeline import FitResult, fit
from avatar.train import checkpoint_path, read_metrics

CONFIG = FitConfig(
    model=ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3)),
    train=TrainConfig(steps=6),
)
LONGER = dataclasses.replace(CONFIG, train=TrainConfig(steps=9))

Fit = Callable[..., FitResult]


@pytest.fixture()
def fitted(person, tmp_path, monkeypatch) -> Fit:
    """`fit` of a clip that was captured and tracked already."""
    capture, track = person
    monkeypatch.setattr(pipeline, "capture_stage", lambda *_: capture)
    monkeypatch.setattr(pipeline, "track_stage", lambda *_: track)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"only its hash is read")
    return lambda config=CONFIG, resume=False: fit(clip, tmp_path / "me", config, resume)


def cut_off(monkeypatch, stage: str, how: type[BaseException]) -> None:
    def ends(*_: object, **__: object) -> None:
        raise how

    monkeypatch.setattr(pipeline, stage, ends)


@pytest.mark.parametrize("stage", ["with_speech_model", "evaluate", "preview_stage"])
def test_ctrl_c_after_training_leaves_a_usable_avatar(fitted: Fit, monkeypatch, stage) -> None:
    cut_off(monkeypatch, stage, KeyboardInterrupt)
    left = fitted()
    assert not left.finished and left.psnr is None
    assert Avatar.load(left.avatar_path).render().std() > 10
    assert not (left.run_folder / "report.html").exists()


def test_resuming_after_training_does_the_rest(fitted: Fit, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        cut_off(patch, "with_speech_model", KeyboardInterrupt)
        fitted()
    whole = fitted(resume=True)
    assert whole.finished and whole.psnr is not None
    for name in ("preview.mp4", "report.html", "report.json"):
        assert (whole.run_folder / name).stat().st_size > 100
    assert "tracked" in Avatar.load(whole.avatar_path).metadata.scores


def test_nothing_is_resumed_from_the_run_before(fitted: Fit, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        cut_off(patch, "with_speech_model", KeyboardInterrupt)
        before = fitted()
    avatar_before = before.avatar_path.read_bytes()
    with monkeypatch.context() as patch:
        cut_off(patch, "train_stage", SystemExit)  # as good as killed before the first checkpoint
        with pytest.raises(SystemExit):
            fitted(LONGER)
    assert not checkpoint_path(before.run_folder).exists() and not read_metrics(before.run_folder)
    with pytest.raises(UserError, match="nothing to resume"):
        fitted(LONGER, resume=True)
    assert before.avatar_path.read_bytes() == avatar_before


def test_settings_out_of_range_are_refused_before_anything_is_done(tmp_path) -> None:
    wrong = dataclasses.replace(CONFIG, train=TrainConfig(checkpoint_every=0))
    with pytest.raises(UserError, match=r"'train.checkpoint_every' must be from 1 to"):
        fit(Path("no such clip.mp4"), tmp_path / "me", wrong)
    assert not (tmp_path / "me").exists()
