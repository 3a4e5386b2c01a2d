"""The committed demo clip: its sound and length, and that the ground truth beside it says what the picture shows."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
SAMPLED = 40
"""Frames looked at with MediaPipe."""
MESH_POINT = {"nose_tip": 4, "chin": 152, "mouth_corner_left": 291, "mouth_corner_right": 61, "eye_outer_left": 263,
              "eye_outer_right": 33}  # fmt: skip
"""Face mesh index of some of the truth's landmarks (left and right are the person's own)."""


@dataclass(frozen=True)
class Demo:
    tensors: dict[str, np.ndarray]
    header: dict[str, object]
    pictures: list[np.ndarray]
    """Every frame, (H, W, 3) uint8."""
    sound: np.ndarray
    sound_rate: int

    def projected(self) -> np.ndarray:
        """Landmarks in pixels, (N, K, 2)."""
        p = self.tensors["landmarks"].astype(np.float64)
        return p[..., :2] / p[..., 2:] * self.tensors["focal_px"][0] + float(self.header["width"]) / 2  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo() -> Demo:
    av = pytest.importorskip("av")
    with safe_open(CAPTURES / "demo_truth.safetensors", "np") as f:
        tensors = {k: f.get_tensor(k) for k in list(f.keys())}
        header = {k: json.loads(v) for k, v in f.metadata().items()}
    with av.open(str(CAPTURES / "demo.mp4")) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    with av.open(str(CAPTURES / "demo.mp4")) as container:
        blocks = [f.to_ndarray() for f in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    return Demo(tensors, header, pictures, np.concatenate(blocks, axis=1)[0], rate)


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    with safe_open(CAPTURES / "demo_masks.safetensors", "np") as f:
        data, offsets = f.get_tensor("data"), f.get_tensor("offsets")
        shape = int(f.metadata()["height"]), int(f.metadata()["width"])
    chosen = np.linspace(0, len(offsets) - 2, SAMPLED).astype(int)
    return [
        np.frombuffer(zlib.decompress(data[offsets[k] : offsets[k + 1]].tobytes()), np.uint8).reshape(shape)
        for k in chosen
    ]


def test_clip_is_short_sharp_and_sounds(demo: Demo) -> None:
    count = len(demo.pictures)
    assert 20 * 25 <= count <= 40 * 25
    assert demo.pictures[0].shape == (512, 512, 3)
    assert demo.header["fps"] == 25
    assert (CAPTURES / "demo.mp4").stat().st_size < 6e6
    assert abs(len(demo.sound) / demo.sound_rate - count / 25) < 0.1
    assert 0.05 < np.sqrt(np.mean(demo.sound**2)) < 0.5


def test_truth_has_a_row_per_frame(demo: Demo) -> None:
    count, t = len(demo.pictures), demo.tensors
    assert t["coefficients"].shape == (count, 52)
    assert t["camera_from_head"].shape == t["camera_from_torso"].shape == (count, 4, 4)
    assert t["landmarks"].shape == (count, len(demo.header["landmarks"]), 3)  # type: ignore[arg-type]
    assert demo.header["coefficients"] == list(BLENDSHAPES)
    np.testing.assert_allclose(t["times"], np.arange(count) / 25, atol=1e-9)


def test_poses_are_rigid_and_agree_in_the_reference_frame(demo: Demo) -> None:
    for name in ("camera_from_head", "camera_from_torso"):
        m = demo.tensors[name]
        np.testing.assert_allclose(
            m[:, :3, :3] @ m[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (len(m), 1, 1)), atol=1e-9
        )
        np.testing.assert_allclose(np.linalg.det(m[:, :3, :3]), 1, atol=1e-9)
        assert (np.abs(m[:, 2, 3] - 100) < 15).all()
    k = demo.header["reference_frame"]
    np.testing.assert_allclose(demo.tensors["camera_from_head"][k], demo.tensors["camera_from_torso"][k], atol=1e-9)  # type: ignore[index]


def test_motion_covers_what_an_avatar_must_learn(demo: Demo) -> None:
    c = demo.tensors["coefficients"]
    assert c.min() >= 0 and c.max() <= 1
    facing = demo.tensors["camera_from_head"][:, :3, 2] * [1, -1, -1]
    yaw, pitch = np.degrees(np.arctan2(facing[:, 0], facing[:, 2])), np.degrees(np.arcsin(facing[:, 1]))
    assert yaw.min() < -10 and yaw.max() > 10 and np.abs(yaw).max() < 30
    assert np.ptp(pitch) > 8
    relative = np.linalg.inv(demo.tensors["camera_from_torso"]) @ demo.tensors["camera_from_head"]
    assert np.abs(relative - np.eye(4)).max() > 0.1, "the head must move on the torso"
    for name, least in (
        ("jawOpen", 0.25),
        ("eyeBlinkLeft", 0.9),
        ("mouthPucker", 0.4),
        ("mouthSmileLeft", 0.3),
        ("browInnerUp", 0.3),
    ):
        assert np.ptp(c[:, BLENDSHAPE_INDEX[name]]) > least, name


def test_masks_hold_all_regions_where_they_belong(demo: Demo, masks: list[np.ndarray]) -> None:
    share = np.array([[np.mean(m == label) for label in range(4)] for m in masks])
    assert (share[:, REGION_BACKGROUND] > 0.3).all()
    assert (share[:, REGION_TORSO] > 0.1).all()
    assert ((share[:, REGION_HEAD] > 0.15) & (share[:, REGION_HEAD] < 0.5)).all()
    assert share[:, REGION_MOUTH].max() > 0.001 and share[:, REGION_MOUTH].max() < 0.02
    nose = demo.projected()[:, list(demo.header["landmarks"]).index("nose_tip")]  # type: ignore[call-overload]
    for k, m in zip(np.linspace(0, len(nose) - 1, SAMPLED).astype(int), masks, strict=True):
        x, y = nose[k].astype(int)
        assert m[y, x] == REGION_HEAD
        assert (m[:8] == REGION_BACKGROUND).all()


def test_backdrop_stands_still(demo: Demo, masks: list[np.ndarray]) -> None:
    behind = np.all([m == REGION_BACKGROUND for m in masks], axis=0)
    behind[:, :-1] &= behind[:, 1:]
    chosen = np.stack([demo.pictures[k] for k in np.linspace(0, len(demo.pictures) - 1, SAMPLED).astype(int)])
    deviation = chosen[:, behind].astype(float).std(0)
    assert np.percentile(deviation, 95) < 3  # what H.264 leaves


def test_jaw_opens_with_the_voice(demo: Demo) -> None:
    hop = demo.sound_rate // 25
    loud = np.sqrt([np.mean(demo.sound[k * hop : (k + 1) * hop] ** 2) for k in range(len(demo.pictures))])
    jaw = demo.tensors["coefficients"][:, BLENDSHAPE_INDEX["jawOpen"]]
    delays = [np.corrcoef(loud[5:-5], jaw[5 + d : len(jaw) - 5 + d])[0, 1] for d in range(-5, 6)]
    assert max(delays) > 0.5
    assert abs(int(np.argmax(delays)) - 5) <= 2, "picture and sound are out of step"


def test_mediapipe_finds_the_face_where_the_truth_says(demo: Demo) -> None:
    mediapipe = pytest.importorskip("mediapipe")
    chosen = np.linspace(0, len(demo.pictures) - 1, SAMPLED).astype(int)
    size = demo.pictures[0].shape[0]
    found = np.empty((SAMPLED, 478, 2))
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        for row, k in enumerate(chosen):
            faces = mesh.process(demo.pictures[k]).multi_face_landmarks
            assert faces, f"no face in frame {k}"
            found[row] = [(p.x * size, p.y * size) for p in faces[0].landmark]
    truth, names = demo.projected()[chosen], list(demo.header["landmarks"])  # type: ignore[call-overload]
    for name, index in MESH_POINT.items():
        there, here = truth[:, names.index(name)], found[:, index]
        for axis in (0, 1):
            assert np.corrcoef(there[:, axis], here[:, axis])[0, 1] > 0.95, (name, axis)
        assert np.abs(there - here).mean() < 12, name  # px; landmark definitions differ by up to a centimetre
    opening = np.linalg.norm(found[:, 13] - found[:, 14], axis=1)
    jaw = demo.tensors["coefficients"][chosen, BLENDSHAPE_INDEX["jawOpen"]]
    assert np.corrcoef(opening, jaw)[0, 1] > 0.7
