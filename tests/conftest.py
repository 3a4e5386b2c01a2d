"""Shared fixtures: real clips (only where AVATAR_CAPTURES names them), the demo clip, and a tiny synthetic person."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.types import Camera, Capture, Crop, Track

ROOT = Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu run where the CUDA kernels can."""
    if item.get_closest_marker("gpu"):
        from avatar.raster import cuda

        if why := cuda.unavailable():
            pytest.skip(f"no CUDA rasterizer: {why}")


@pytest.fixture(scope="session")
def demo_clip() -> Path:
    """The bundled computer-generated clip."""
    clip = ROOT / "captures" / "demo.mp4"
    if not clip.is_file():
        pytest.skip("captures/demo.mp4 is not in this checkout")
    return clip


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real clips for evaluation."""
    folder = os.environ.get("AVATAR_CAPTURES")
    if not folder:
        pytest.skip("AVATAR_CAPTURES is not set: no real clips here")
    return Path(folder)


@pytest.fixture(scope="session")
def open_chromium() -> Iterator[Callable[[list[str]], Any]]:
    """Opens Debian's Chromium with these flags. One Playwright for all tests of a worker: a second one beside it,
    which two test files in turn would ask for, is an error of Playwright's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed: scripts/system_packages.sh tests installs it")
    with playwright.sync_playwright() as running:
        yield lambda flags: running.chromium.launch(executable_path=program, args=flags)


class Frames(list):
    """A list of arrays as a FrameReader."""


class Regions:
    """Region labels held in memory; the matte is 255 wherever there is a person."""

    def __init__(self, labels: list[np.ndarray]) -> None:
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self, index: int) -> np.ndarray:
        return self._labels[index]

    def matte(self, index: int) -> np.ndarray:
        return np.where(self._labels[index] != REGION_BACKGROUND, 255, 0).astype(np.uint8)


def synthetic_person(tmp_path: Path, frames: int = 22, size: int = 48) -> tuple[Capture, Track]:
    """A disc of a head on a block of a body that sways, with a mouth that opens: enough to train on, in no time.

    Pictures are drawn by plain pixel rules, not by the project's renderer.
    """
    rng = np.random.default_rng(0)
    times = np.arange(frames) / 25.0
    camera = Camera(focal_px=size * 1.5, cx=size / 2, cy=size / 2, width=size, height=size)
    distance = 50.0
    shift = 1.5 * np.sin(times * 7.0)
    opening = 0.5 + 0.5 * np.sin(times * 11.0)
    head = np.repeat(np.diag([1.0, -1.0, -1.0, 1.0])[None], frames, axis=0)
    head[:, 0, 3], head[:, 1, 3], head[:, 2, 3] = shift, -4.0, distance
    torso = head.copy()
    torso[:, 0, 3] = 0.3 * shift
    torso[:, :3, 3] += head[0, :3, 3] - torso[0, :3, 3]
    neutral = np.concatenate([rng.normal(size=(478, 2)) * 3.0, rng.normal(size=(478, 1)) * 0.5 + 4.0], axis=1)
    ys, xs = np.mgrid[0:size, 0:size] + 0.5
    texture = rng.integers(0, 40, (size, size, 3))
    backdrop = np.clip(np.stack([xs * 2, ys * 2, xs + ys], axis=-1) + 40, 0, 255).astype(np.uint8)
    pictures, labels, landmarks = [], [], []
    for i in range(frames):
        points = neutral @ head[i, :3, :3].T + head[i, :3, 3]
        landmarks.append(points[:, :2] / points[:, 2:] * camera.focal_px + size / 2)
        centre = head[i, :2, 3] / distance * camera.focal_px + size / 2
        body = (np.abs(xs - size / 2 - 0.3 * shift[i]) < size * 0.35) & (ys > size * 0.72)
        face = np.hypot(xs - centre[0], ys - centre[1]) < size * 0.27
        mouth = np.hypot((xs - centre[0]) / 1.5, ys - centre[1] - size * 0.1) < size * 0.06 * opening[i]
        label = np.full((size, size), REGION_BACKGROUND, np.uint8)
        picture = backdrop.astype(int)
        for region, mask, colour in (
            (REGION_TORSO, body, (40, 60, 120)),
            (REGION_HEAD, face, (210, 160, 130)),
            (REGION_MOUTH, mouth, (90, 20, 20)),
        ):
            label[mask] = region
            picture = np.where(mask[..., None], np.array(colour) + texture // 2, picture)
        labels.append(label)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    coefficients = np.zeros((frames, 52), np.float32)
    coefficients[:, 24] = opening
    capture = Capture(
        folder=tmp_path, frames=Frames(pictures), times=times, fps=25.0, audio=None,
        crop=Crop(0, 0, size, size), source_name="synthetic", source_sha256="0" * 64, source_size=(size, size),
    )  # fmt: skip
    track = Track(
        camera=camera, times=times, valid=np.ones(frames, bool), camera_from_head=head, camera_from_torso=torso,
        coefficients=coefficients, landmarks=np.stack(landmarks).astype(np.float32),
        neutral=neutral.astype(np.float32), regions=Regions(labels), backdrop=backdrop, reference_frame=0,
    )  # fmt: skip
    return capture, track


@pytest.fixture(scope="session")
def make_person() -> Callable[..., tuple[Capture, Track]]:
    """`synthetic_person`, for those who want another length or size."""
    return synthetic_person


@pytest.fixture()
def person(tmp_path: Path) -> tuple[Capture, Track]:
    """The tiny synthetic person as (Capture, Track)."""
    return synthetic_person(tmp_path)


SMALL_MODEL = ModelConfig(
    face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), driver_hidden=8
)


@pytest.fixture()
def small_avatar(one_small_avatar):
    """An `Avatar` of the tiny synthetic person: untrained, but it moves, turns and changes colour with its drivers."""
    import copy

    return copy.deepcopy(one_small_avatar)


@pytest.fixture(scope="session")
def one_small_avatar(tmp_path_factory: pytest.TempPathFactory):
    """What `small_avatar` copies, made once."""
    import torch

    from avatar.dataset import FrameSet
    from avatar.model import Avatar, Metadata, initial_model, own_motion
    from avatar.speech import person_statistics
    from avatar.types import Provenance

    capture, track = synthetic_person(tmp_path_factory.mktemp("person"))
    model = initial_model(FrameSet(capture, track, torch.device("cpu")), SMALL_MODEL, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for branch in model.branches.values():
            branch.bases += torch.randn(branch.bases.shape, generator=generator)
            branch.quats += 0.5 * torch.randn(branch.quats.shape, generator=generator)
    metadata = Metadata(
        camera=track.camera,
        provenance=Provenance("synthetic.mp4", "0" * 64, "1", "2026-01-01T00:00:00+00:00"),
        fps=25.0,
        reference_pose={
            "camera_from_head": track.camera_from_head[0, :3].tolist(),
            "camera_from_torso": track.camera_from_torso[0, :3].tolist(),
        },
        hidden=SMALL_MODEL.driver_hidden,
    )
    model.eval().requires_grad_(False)
    return Avatar(model, metadata, person_statistics(track), None, own_motion(track))


@pytest.fixture(scope="session")
def tiny_hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small speech encoder that has learned nothing."""
    transformers = pytest.importorskip("transformers", reason="the extra 'encoder' is not installed")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoders") / "tiny"
    transformers.HubertModel(config).save_pretrained(path)
    return path
