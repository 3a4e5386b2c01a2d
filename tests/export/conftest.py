"""Fixtures of the export tests: a small avatar that moves, its player folder, and one browser for all of them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from export_page import FLAGS, Page

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import CODES
from avatar.dataset import FrameSet
from avatar.export import ExportOptions, export
from avatar.export.runtime import find_runtime
from avatar.model import Avatar, Metadata, add_prior, initial_model
from avatar.progress import SILENT
from avatar.speech import PersonStatistics, SpeechModel, SpeechModelConfig, person_statistics
from avatar.types import Provenance


def small_avatar(person: Any, gaussians: tuple[int, int, int] = (700, 120, 400), speech: bool = True) -> Avatar:
    """An avatar of the synthetic person with random, lively bases, lids, codes, limits of its motion, the geometric
    prior beyond them, and a random small speech model: nothing is zero, so every path of the player shows."""
    capture, track = person
    face, mouth, torso = gaussians
    config = ModelConfig(
        face=BranchConfig(face, 6), mouth=BranchConfig(mouth, 3), torso=BranchConfig(torso, 3), driver_hidden=8,
        start_fraction=1.0,
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    codes = np.random.default_rng(3).normal(size=(len(track.times), sum(CODES.values()))).astype(np.float32)
    frames = FrameSet(capture, dataclasses.replace(track, codes=codes), torch.device("cpu"))
    model = initial_model(frames, config, seed=0)
    model.measure_limits(frames.training_motion())
    model.features.lids = torch.tensor([[[0.05, 0.7], [0.5, 0.8], *[[0.1, 0.3]] * 5]] * 2)
    with torch.no_grad():
        for name in ("face", "mouth", "torso"):
            branch = model.branch(name)
            branch.bases += 0.5 * torch.randn(branch.bases.shape, generator=random)
            branch.quats += 0.5 * torch.randn(branch.quats.shape, generator=random)
            branch.log_scales += 0.4 * torch.randn(branch.log_scales.shape, generator=random)
            branch.opacity_logits += torch.randn(branch.opacity_logits.shape, generator=random)
    add_prior(model, track)
    listener = None
    if speech:
        listener = SpeechModel(SpeechModelConfig(members=2, width=16, layers=1, heads=2)).eval()
        with torch.no_grad():
            for parameter in listener.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
            listener.target_mean.fill_(0.3)
            listener.target_std.fill_(0.2)
            listener.rest.fill_(0.05)
        listener.requires_grad_(False)
    reference = track.reference_frame
    metadata = Metadata(
        camera=track.camera,
        provenance=Provenance("synthetic.mp4", "0" * 64, "0", "2026-01-01T00:00:00+00:00"),
        fps=25.0,
        reference_pose={
            "camera_from_head": track.camera_from_head[reference, :3].tolist(),
            "camera_from_torso": track.camera_from_torso[reference, :3].tolist(),
        },
        speech=listener.config_dict() if listener else None,
        hidden=8,
    )
    statistics = person_statistics(track)
    wide = {"low": np.zeros(52, np.float32), "high": np.ones(52, np.float32)}
    statistics = PersonStatistics(**{**vars(statistics), **wide})
    return Avatar(model.eval().requires_grad_(False), metadata, statistics, listener)


@pytest.fixture(scope="session")
def lively(tmp_path_factory, make_person) -> Path:
    """The small avatar as a file."""
    folder = tmp_path_factory.mktemp("lively")
    path = folder / "lively.avatar"
    small_avatar(make_person(folder, frames=60, size=96)).save(path)
    return path


@pytest.fixture(scope="session")
def silent(lively, tmp_path_factory) -> Path:
    """The same avatar without its speech model: quick to export."""
    someone = Avatar.load(lively)
    someone.speech, someone.metadata = None, dataclasses.replace(someone.metadata, speech=None)
    path = tmp_path_factory.mktemp("silent") / "silent.avatar"
    someone.save(path)
    return path


@pytest.fixture(scope="session")
def player_folder(lively, tmp_path_factory) -> Path:
    """Its player folder, as exported by default."""
    folder = tmp_path_factory.mktemp("player") / "player"
    export(lively, folder, "player", ExportOptions(name="lively", avatar_path=lively))
    return folder


@pytest.fixture(scope="session")
def runtime() -> None:
    """Skips where the set-up could not get onnxruntime-web."""
    if find_runtime(None, SILENT) is None:
        pytest.skip("onnxruntime-web is not here: scripts/player_runtime.sh gets it (needs npm)")


@pytest.fixture(scope="session")
def spoken(tmp_path_factory) -> Path:
    """Two seconds of a buzz that comes and goes like speech, 48 kHz, looped by the fake microphone."""
    import soundfile

    rate, t = 48_000, np.arange(2 * 48_000) / 48_000
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * t))
    buzz = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 40))
    path = tmp_path_factory.mktemp("sound") / "spoken.wav"
    soundfile.write(path, (0.25 * envelope * buzz).astype(np.float32), rate)
    return path


@pytest.fixture(scope="session")
def browser(open_chromium, spoken) -> Iterator[Any]:
    """Chromium with software WebGL2 and a fake microphone that plays `spoken`."""
    opened = open_chromium([*FLAGS, f"--use-file-for-fake-audio-capture={spoken}"])
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def page(browser, player_folder) -> Iterator[Page]:
    """The exported page, loaded."""
    opened = Page(browser, player_folder)
    opened.ready()
    yield opened
    opened.close()
