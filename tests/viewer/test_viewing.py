"""What a name on the command line stands for: an avatar file, alone or in its run folder, or a run under way."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
import torch

from avatar import viewing
from avatar.config import BranchConfig, FitConfig, ModelConfig, TrainConfig
from avatar.dataset import FrameSet
from avatar.errors import UserError
from avatar.model import initial_model
from avatar.run_folder import RunFolder
from avatar.train import Trainer, checkpoint_path, save_checkpoint
from avatar.train.control import control_path
from avatar.viewing import newest_avatar, open_avatar, open_run_folder

CONFIG = FitConfig(
    size=64,
    model=ModelConfig(BranchConfig(60, 3), BranchConfig(20, 2), BranchConfig(40, 2), driver_hidden=4),
    train=TrainConfig(steps=3, checkpoint_every=1000, score_every=1000),
)


@pytest.fixture()
def run(tmp_path, person, monkeypatch) -> RunFolder:
    """A run folder whose clip and track are those of the synthetic person."""
    capture, track = person
    monkeypatch.setattr(viewing, "load_capture", lambda folder: capture)
    monkeypatch.setattr(viewing, "load_track", lambda path: track)
    folder = RunFolder(tmp_path / "me", "me.mp4", "0" * 64, CONFIG, False, {})
    folder.save()
    return folder


@pytest.fixture()
def trainer(run, person) -> Trainer:
    frames = FrameSet(*person, torch.device("cpu"))
    return Trainer(frames, initial_model(frames, CONFIG.model, seed=0), CONFIG, run.path)


def test_a_run_is_shown_by_its_newest_checkpoint_or_avatar(run, trainer, small_avatar, person) -> None:
    save_checkpoint(trainer, checkpoint_path(run.path))
    subject, watch = open_run_folder(run.path)
    avatar, version = subject.current
    assert (subject.name, version, watch.progress.steps) == ("me", 0, 3) and subject.capture is person[0]
    assert avatar.model.count == trainer.model.count and avatar.speech is None and len(avatar.motion.times) == 22
    motion = trainer.frames.motion
    assert torch.equal(avatar.model(motion).image, trainer.model(motion).image)

    watch.poll(subject)
    assert subject.current[1] == 0  # nothing new
    time.sleep(0.01)
    small_avatar.save(run.avatar)
    watch.poll(subject)
    assert subject.current[1] == 1 and subject.current[0].model.count == small_avatar.model.count


def test_the_first_checkpoint_is_asked_for_and_waited_for(run, trainer) -> None:
    opened: list = []
    waiting = threading.Thread(target=lambda: opened.append(open_run_folder(run.path)))
    waiting.start()
    time.sleep(0.2)
    assert not opened and not control_path(run.path).exists()  # no fit to ask yet
    (run.path / "metrics.jsonl").write_text("")
    until = time.monotonic() + 20
    while not control_path(run.path).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert control_path(run.path).read_text() == "save"
    save_checkpoint(trainer, checkpoint_path(run.path))
    waiting.join(timeout=20)
    assert opened


def test_an_avatar_file_brings_the_clip_of_its_own_run_only(run, small_avatar, person, tmp_path) -> None:
    small_avatar.save(run.avatar)
    assert open_avatar(run.avatar).capture is None  # cleaned away
    run.capture.mkdir()
    run.track.touch()
    assert open_avatar(run.avatar).capture is person[0]
    small_avatar.save(tmp_path / "elsewhere.avatar")
    assert open_avatar(tmp_path / "elsewhere.avatar").capture is None
    dataclasses.replace(run, clip_sha256="1" * 64).save()
    assert open_avatar(run.avatar).capture is None


def test_a_folder_without_a_run_and_a_damaged_checkpoint_are_named(run, tmp_path, person) -> None:
    with pytest.raises(UserError, match="There is no run in"):
        open_run_folder(tmp_path)
    path = checkpoint_path(run.path)
    path.parent.mkdir()
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(UserError, match="cannot be read"):
        newest_avatar(run, person[0])
