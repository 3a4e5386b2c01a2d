"""A fit is steered through a file in its run folder."""

from __future__ import annotations

import threading
import time

import pytest

from avatar.config import BranchConfig, FitConfig, ModelConfig, TrainConfig
from avatar.dataset import FrameSet
from avatar.model import initial_model
from avatar.train import Trainer, checkpoint_model, checkpoint_path
from avatar.train.control import Control, control_path, send_command


def never() -> bool:
    return False


def test_commands(tmp_path) -> None:
    saved = []
    send_command(tmp_path, "stop")  # from an earlier fit: dropped
    control = Control(tmp_path, lambda: saved.append(1))
    assert control.goes_on(never) and not saved
    send_command(tmp_path, "save")
    assert control.goes_on(never) and saved == [1] and control.goes_on(never) and saved == [1]
    send_command(tmp_path, "stop")
    assert not control.goes_on(never) and not control_path(tmp_path).exists()
    assert not control.goes_on(lambda: True)


def test_pause_saves_and_waits_until_it_may_go_on(tmp_path) -> None:
    saved, results = [], []
    control = Control(tmp_path, lambda: saved.append(1))
    send_command(tmp_path, "pause")
    fit = threading.Thread(target=lambda: results.append(control.goes_on(never)))
    fit.start()
    time.sleep(0.3)
    assert fit.is_alive() and saved == [1]
    send_command(tmp_path, "continue")
    fit.join(timeout=10)
    assert results == [True] and saved == [1]


def test_a_paused_fit_can_be_stopped_or_interrupted(tmp_path) -> None:
    control, interrupted, results = Control(tmp_path, lambda: None), threading.Event(), []
    for end in (lambda: send_command(tmp_path, "stop"), interrupted.set):
        send_command(tmp_path, "pause")
        fit = threading.Thread(target=lambda: results.append(control.goes_on(interrupted.is_set)))
        fit.start()
        end()
        fit.join(timeout=10)
    assert results == [False, False]


@pytest.fixture(params=["basis", "hashgrid"])
def trainer(request, person, tmp_path) -> Trainer:
    import torch

    face, mouth, torso = BranchConfig(60, 3), BranchConfig(20, 2), BranchConfig(40, 2)
    sizes = ModelConfig(face, mouth, torso, motion=request.param, driver_hidden=4)
    config = FitConfig(model=sizes, train=TrainConfig(steps=40, checkpoint_every=1000, score_every=1000))
    frames = FrameSet(*person, torch.device("cpu"))
    return Trainer(frames, initial_model(frames, sizes, seed=0), config, tmp_path)


def test_a_fit_that_is_told_to_stop_leaves_a_model_to_look_at(trainer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "_after_step", lambda *_: trainer.step == 3 and send_command(tmp_path, "stop"))
    assert trainer.run() is False and trainer.step == 3
    model = checkpoint_model(checkpoint_path(tmp_path), trainer.frames.camera, 4)
    motion = trainer.frames.motion
    assert (model(motion).image - trainer.model(motion).image).abs().max() < 1e-6
