"""Scores against independent formulas, streaming behaviour, regions, landmark distance, coefficient curves."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from avatar.conventions import MOUTH_BLENDSHAPES, REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.evaluate.landmark_distance import MOUTH_AND_JAW, LandmarkDistance
from avatar.evaluate.metrics import (
    MAX_PSNR,
    Scores,
    compare_coefficients,
    correlation,
    gradient_magnitude,
    psnr,
    representative_frames,
    ssim,
    ssim_map,
    to_uint8,
)


def pair(height: int = 40, width: int = 52, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    truth = random.random((height, width, 3))
    return truth, np.clip(truth + noise * random.standard_normal(truth.shape), 0, 1)


def quarters(height: int, width: int) -> np.ndarray:
    labels = np.full((height, width), REGION_BACKGROUND, np.uint8)
    labels[height // 2 :] = REGION_TORSO
    labels[: height // 2, width // 2 :] = REGION_HEAD
    labels[4:10, -12:-4] = REGION_MOUTH
    return labels


def test_psnr_and_ssim_equal_scikit_image():
    """Values of scikit-image 0.25 (`peak_signal_noise_ratio`, `structural_similarity` with Gaussian weights, sigma 1.5,
    population covariance, data range 1) for this pair."""
    truth, image = pair()
    assert psnr(image, truth) == pytest.approx(20.465137395401605, abs=1e-9)
    assert ssim(image, truth) == pytest.approx(0.9459368774998453, abs=1e-9)


def test_ssim_equals_the_formula_written_with_scipy():
    truth, image = pair(33, 64, noise=0.3)

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma=1.5, radius=5)[5:-5, 5:-5]

    channels = []
    for c in range(3):
        x, y = image[..., c], truth[..., c]
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        top = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
        channels.append((top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean())
    assert ssim(image, truth) == pytest.approx(np.mean(channels), abs=1e-12)


def test_known_values():
    grey = np.full((20, 20, 3), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20.0)
    assert psnr(grey, grey) == MAX_PSNR
    assert ssim(grey, grey) == pytest.approx(1.0)
    mask = np.zeros((20, 20), bool)
    mask[:5] = True
    image = grey.copy()
    image[5:] += 0.3
    image[:5] += 0.01
    assert psnr(image, grey, mask) == pytest.approx(40.0)


def test_errors_name_the_problem():
    grey = np.full((20, 20, 3), 0.5)
    with pytest.raises(ValueError, match="empty mask"):
        psnr(grey, grey, np.zeros((20, 20), bool))
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(grey[:8], grey[:8])
    with pytest.raises(ValueError, match="no frame"):
        Scores().result()
    with pytest.raises(ValueError, match="label 9"):
        Scores().add(grey, grey, np.full((20, 20), 9, np.uint8))


def test_clip_scores_are_means_of_frames_and_regions_pool_the_error():
    truth, light = pair(noise=0.02)
    _, heavy = pair(noise=0.2)
    labels = quarters(*truth.shape[:2])
    scores = Scores()
    returned = [scores.add(light, truth, labels), scores.add(heavy, truth, labels)]
    result = scores.result()
    images = [to_uint8(image) / 255 for image in (light, heavy)]
    true = to_uint8(truth) / 255
    per_frame = [psnr(image, true) for image in images]
    assert result["per_frame"] == pytest.approx(per_frame, abs=1e-4)  # frames are scored in float32
    assert returned == result["per_frame"]
    assert result["psnr"] == pytest.approx(np.mean(per_frame), abs=1e-4)
    assert result["ssim"] == pytest.approx(np.mean([ssim(image, true) for image in images]), abs=1e-6)
    assert result["frames"] == 2
    for name, label in (("head", REGION_HEAD), ("mouth", REGION_MOUTH), ("torso", REGION_TORSO)):
        errors = np.concatenate([np.square(image - true)[labels == label] for image in images])
        assert result[name] == pytest.approx(-10 * np.log10(errors.mean()), abs=1e-4)
    similar = np.stack([ssim_map(image, true) for image in images])
    for name, label in (("head", REGION_HEAD), ("mouth", REGION_MOUTH), ("torso", REGION_TORSO)):
        inside = similar[:, labels[5:-5, 5:-5] == label]
        assert result["region_ssim"][name] == pytest.approx(inside.mean(), abs=1e-6)
    assert sum(result["error_share"].values()) == pytest.approx(1.0)
    assert result["lmd"] is None


def test_8_bit_frames_score_like_the_floats_they_came_from():
    truth, image = pair()
    labels = quarters(*truth.shape[:2])
    from_float, from_bytes = Scores(), Scores()
    from_float.add(image.astype(np.float32), truth, labels)
    from_bytes.add(to_uint8(image), to_uint8(truth), labels)
    assert from_float.result() == from_bytes.result()


def test_a_region_that_never_shows_is_none():
    truth, image = pair()
    scores = Scores()
    scores.add(image, truth, np.full(truth.shape[:2], REGION_HEAD, np.uint8))
    result = scores.result()
    assert result["mouth"] is None and result["sharpness"]["mouth"] is None and result["head"] > 0


def test_sharpness_tells_blur_from_detail():
    truth, _ = pair(64, 64)
    blurred = gaussian_filter(truth, sigma=(2, 2, 0))
    labels = quarters(64, 64)
    scores = {}
    for name, image in (("same", truth), ("blurred", blurred)):
        scores[name] = Scores()
        scores[name].add(image, truth, labels)
    assert scores["same"].result()["sharpness"] == dict.fromkeys(
        ("background", "torso", "head", "mouth", "frame"), pytest.approx(1.0)
    )
    assert all(ratio < 0.3 for ratio in scores["blurred"].result()["sharpness"].values())


def test_gradient_magnitude_of_a_ramp():
    ramp = np.repeat(np.linspace(0, 1, 21)[None, :, None], 10, axis=0).repeat(3, axis=2)
    np.testing.assert_allclose(gradient_magnitude(ramp), 0.05, atol=1e-12)


def test_landmark_distance_measures_lips_and_jaw_and_counts_missed_faces():
    face = np.random.default_rng(1).random((478, 2)) * 100
    moved = face.copy()
    moved[list(MOUTH_AND_JAW)] += (3.0, 4.0)

    def detect(frame: np.ndarray) -> np.ndarray | None:
        return {0: None, 1: face, 2: moved}[int(frame[0, 0, 0])]

    blank, still, open_mouth = (np.full((16, 16, 3), value, np.uint8) for value in (0, 1, 2))
    distance = LandmarkDistance(detect)
    distance.add(open_mouth, still)
    distance.add(blank, still)
    value, notes = distance.result()
    assert value == pytest.approx(5.0)
    assert notes == ["lmd leaves out 1 of 2 frames in which no face was detected"]


def test_landmark_distance_without_mediapipe_is_a_note_not_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions", None)
    truth, image = pair()
    scores = Scores(LandmarkDistance())
    scores.add(image, truth, quarters(*truth.shape[:2]))
    result = scores.result()
    assert result["lmd"] is None
    assert "mediapipe cannot be loaded" in result["notes"][0]


def test_landmark_groups_are_disjoint_mesh_points():
    assert len(set(MOUTH_AND_JAW)) == len(MOUTH_AND_JAW) == 53
    assert max(MOUTH_AND_JAW) < 468


def test_correlation_and_coefficient_scores():
    time = np.linspace(0, 6, 200)
    truth = np.zeros((200, len(MOUTH_BLENDSHAPES)))
    truth[:, 0], truth[:, 1] = 0.5 + 0.4 * np.sin(3 * time), 0.3 + 0.2 * np.cos(5 * time)
    predicted = truth.copy()
    predicted[:, 0] = 0.5 * truth[:, 0]
    predicted[:, 1] = 0.3
    scores = compare_coefficients(predicted, truth)
    names = MOUTH_BLENDSHAPES[:2]
    assert scores["correlation"] == {names[0]: pytest.approx(1.0), names[1]: 0.0}
    assert scores["correlation_mean"] == pytest.approx(0.5)
    assert scores["active"] == 2 and scores["frames"] == 200
    assert scores["gain"] == pytest.approx(0.2 / np.hypot(0.4, 0.2), rel=0.05)
    assert correlation(truth[:, 0], -truth[:, 0]) == pytest.approx(-1.0)
    assert correlation(truth[:, 0], truth[:, 5]) is None


def test_representative_frames_show_the_worst_too():
    chosen = representative_frames([30.0, 20.0, 25.0, 40.0, 35.0])
    assert chosen == {"best": 3, "median": 0, "worst": 1}
    assert representative_frames([30.0]) == {"best": 0}


def test_mouth_crop_pools_the_error_of_the_boxes():
    truth, light = pair(noise=0.02)
    _, heavy = pair(noise=0.2)
    labels = quarters(*truth.shape[:2])
    scores = Scores()
    scores.add(light, truth, labels, (10, 5, 30, 25))
    scores.add(heavy, truth, labels, (12, 5, 20, 15))  # counts for fewer pixels
    images, true = [to_uint8(image) / 255 for image in (light, heavy)], to_uint8(truth) / 255
    errors = [np.square(images[0] - true)[5:25, 10:30].ravel(), np.square(images[1] - true)[5:15, 12:20].ravel()]
    assert scores.result()["mouth_crop"] == pytest.approx(-10 * np.log10(np.concatenate(errors).mean()), abs=1e-4)
    without = Scores()
    without.add(light, truth, labels)
    assert without.result()["mouth_crop"] is None


def moving(frames: int, tremble: float, height: int = 32, width: int = 40) -> list[np.ndarray]:
    """A soft bar that drifts evenly to the right, and trembles by `tremble` px from frame to frame."""
    x = np.arange(width)
    centres = [10 + 0.7 * k + tremble * (-1) ** k for k in range(frames)]
    rows = [np.exp(-(((x - c) / 4) ** 2)) for c in centres]
    return [np.repeat(np.repeat(row[None, :, None], height, 0), 3, 2) for row in rows]


def jitter_of(images: list[np.ndarray], truth: list[np.ndarray], numbers: list[int]) -> dict:
    labels = np.full(truth[0].shape[:2], REGION_HEAD, np.uint8)
    scores = Scores()
    for image, true, number in zip(images, truth, numbers, strict=True):
        scores.add(image, true, labels, number=number)
    return scores.result()["jitter"]


def test_jitter_tells_trembling_from_even_motion():
    steady, numbers = moving(8, 0.0), list(range(8))
    same, little, much = (jitter_of(moving(8, t), steady, numbers) for t in (0.0, 0.1, 0.5))
    assert same["error"] == 0.0 and same["ratio"] == pytest.approx(1.0)
    assert 1 < little["error"] < much["error"] and 1 < little["ratio"] < much["ratio"]
    stiff = jitter_of(moving(8, 0.1), moving(8, 0.5), numbers)
    assert stiff["ratio"] < 1


def test_jitter_is_the_formula_and_knows_gaps():
    truth, image = moving(4, 0.0), moving(4, 0.3)
    quarter = [to_uint8(v)[..., 0] / 255 for v in image], [to_uint8(v)[..., 0] / 255 for v in truth]
    ours, true = (np.stack([v[k] - 2 * v[k + 1] + v[k + 2] for k in range(2)]) for v in quarter)
    found = jitter_of(image, truth, [5, 6, 7, 8])
    assert found["error"] == pytest.approx(255 * np.sqrt(np.square(ours - true).mean()), rel=1e-4)
    assert found["ratio"] == pytest.approx(np.sqrt(np.square(ours).mean() / np.square(true).mean()), rel=1e-4)
    assert jitter_of(image, truth, [5, 6, 8, 9]) == {"error": None, "ratio": None}
