"""Everything around the mouth: continuous, seeded, in the person's range; blinks at the person's rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from speaking import said

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_INDICES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech import (
    PersonStatistics,
    SpeechControls,
    SpeechModel,
    SpeechModelConfig,
    following_torso,
    person_statistics,
    predict_mouth,
)
from avatar.speech.manner import Blinks
from avatar.speech.person import FACE_INDICES, offsets_from_poses
from avatar.types import Track

BLINK = BLENDSHAPE_INDEX["eyeBlinkLeft"]


@pytest.fixture(scope="module")
def track(talker) -> Track:
    return talker(seconds=24.0)[1]


@pytest.fixture(scope="module")
def person(track: Track) -> PersonStatistics:
    return person_statistics(track)


@pytest.fixture(scope="module")
def model(person: PersonStatistics, loudness_memory) -> SpeechModel:
    """The mouth follows loudness: enough to see amplitude, rest and range."""
    model = SpeechModel(SpeechModelConfig(members=1, width=8, heads=1, memory_size=1)).eval().requires_grad_(False)
    index = list(MOUTH_INDICES)
    loudness_memory(model)
    model.target_std.copy_(torch.from_numpy(person.std[index]))
    for name, values in (
        ("target_mean", person.mean),
        ("rest", person.rest),
        ("low", person.low),
        ("high", person.high),
    ):
        getattr(model, name).copy_(torch.from_numpy(values[index]))
    return model


def _sound(seconds: float) -> np.ndarray:
    random = np.random.default_rng(0)
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * random.standard_normal(len(t)) * np.sin(9 * t) ** 2).astype(np.float32)


def test_statistics_find_the_blinks(track: Track, person: PersonStatistics) -> None:
    assert person.blink_rate == pytest.approx(1 / 3, rel=0.15)
    assert person.blink_closed[FACE_INDICES.index(BLINK)] == pytest.approx(0.7, abs=0.06)
    above_half = (person.blink_shape > 0.5).sum() / 100
    assert above_half == pytest.approx(2.355 * 0.06, abs=0.05)  # full width at half maximum of the made-up blink
    assert person.blink_shape.max() == 1.0
    assert abs(person.blink_shape[[0, -1]]).max() < 1e-3
    blinks_left = person.excerpt_face[:, FACE_INDICES.index(BLINK)].max()
    assert blinks_left < 0.2  # taken out of the recording


def test_statistics_survive_the_file(person: PersonStatistics) -> None:
    tensors = person.to_tensors()
    again = PersonStatistics.from_tensors(tensors)
    assert again.blink_rate == person.blink_rate
    for name, value in tensors.items():
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), value.numpy())
    with pytest.raises(KeyError):
        PersonStatistics.from_tensors({k: v for k, v in tensors.items() if k != "rest"})
    with pytest.raises(ValueError, match="excerpt_face"):
        PersonStatistics.from_tensors({**tensors, "excerpt_face": tensors["excerpt_face"][:, :3]})
    with pytest.raises(ValueError, match="not numbers"):
        PersonStatistics.from_tensors({**tensors, "mean": tensors["mean"] * torch.nan})


def test_rest_is_the_closed_mouth(track: Track, person: PersonStatistics) -> None:
    jaw = BLENDSHAPE_INDEX["jawOpen"]
    assert person.rest[jaw] < np.percentile(track.coefficients[:, jaw], 30)
    assert person.rest[BLENDSHAPE_INDEX["mouthSmileLeft"]] > 0.15  # the smile stays


def test_motion_is_continuous_and_in_range(model: SpeechModel, track: Track, person: PersonStatistics) -> None:
    motion = said(model, person, _sound(60.0), 50.0, SpeechControls(seed=4))
    assert len(motion.times) == 3000
    head = offsets_from_poses(motion.camera_from_head, person.neutral_head)
    own = offsets_from_poses(track.camera_from_head, person.neutral_head)
    own_speed = np.abs(np.diff(own, axis=0)).max(axis=0) * 25
    speed = np.abs(np.diff(head, axis=0)).max(axis=0) * 50
    assert (speed <= 2.5 * own_speed + 0.02).all()  # never a jump
    assert (head.std(axis=0) <= 1.5 * own.std(axis=0) + 1e-3).all()
    assert head.std(axis=0)[1] > 0.3 * own.std(axis=0)[1]  # and not still
    face = motion.coefficients
    assert face.min() >= 0
    assert face.max() <= 1
    brow = BLENDSHAPE_INDEX["browInnerUp"]
    assert face[:, brow].std() > 0.3 * track.coefficients[:, brow].std()
    assert (face[:, brow] <= person.high[brow] + 1e-6).all()
    np.testing.assert_allclose(np.linalg.det(motion.camera_from_head[:, :3, :3]), 1.0, atol=1e-6)


def test_no_visible_loop(model: SpeechModel, person: PersonStatistics) -> None:
    motion = said(model, person, _sound(100.0), fps=10.0)
    yaw = offsets_from_poses(motion.camera_from_head, person.neutral_head)[:, 1]
    yaw = (yaw - yaw.mean()) / yaw.std()
    for lag in range(200, 500, 5):  # 20 s to 50 s
        assert (yaw[lag:] * yaw[:-lag]).mean() < 0.95


def test_seeds(model: SpeechModel, person: PersonStatistics) -> None:
    sound = _sound(8.0)
    one, same, other = (said(model, person, sound, 25.0, SpeechControls(seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.coefficients, same.coefficients)
    np.testing.assert_array_equal(one.camera_from_head, same.camera_from_head)
    assert np.abs(one.camera_from_head - other.camera_from_head).max() > 1e-3
    mouth = list(MOUTH_INDICES)
    np.testing.assert_array_equal(one.coefficients[:, mouth], other.coefficients[:, mouth])  # the words stay


def test_longer_sound_begins_the_same(model: SpeechModel, person: PersonStatistics) -> None:
    short, long = (said(model, person, _sound(s), 25.0) for s in (6.0, 12.0))
    np.testing.assert_allclose(short.camera_from_head[:120], long.camera_from_head[:120], atol=1e-9)
    blink = FACE_INDICES
    np.testing.assert_allclose(short.coefficients[:120, blink], long.coefficients[:120, blink], atol=1e-6)


def test_blinks_have_the_persons_rate(person: PersonStatistics) -> None:
    times = np.array(Blinks(person, seed=0).until(600.0))
    assert len(times) / 600 == pytest.approx(person.blink_rate, rel=0.15)
    assert np.diff(times).min() >= 0.5
    assert np.diff(times).std() > 0.3  # no clock


def test_blinks_close_the_eyes(model: SpeechModel, person: PersonStatistics) -> None:
    motion = said(model, person, _sound(20.0), fps=60.0)
    assert motion.coefficients[:, BLINK].max() == pytest.approx(0.7, abs=0.08)
    assert np.median(motion.coefficients[:, BLINK]) < 0.2


def test_fixed_pose(model: SpeechModel, person: PersonStatistics) -> None:
    motion = said(model, person, _sound(3.0), 25.0, SpeechControls(pose="fixed"))
    np.testing.assert_allclose(motion.camera_from_head, np.repeat(person.neutral_head[None], 75, axis=0), atol=1e-6)
    assert motion.coefficients[:, BLINK].std() > 0  # still alive


def test_gain_scales_from_rest(model: SpeechModel, person: PersonStatistics) -> None:
    sound, times = _sound(4.0), np.arange(100) / 25
    rest = person.rest[list(MOUTH_INDICES)]
    one, half, none = (predict_mouth(model, person, sound, times, gain) - rest for gain in (1.0, 0.5, 0.0))
    assert np.abs(one).max() > 0.05
    np.testing.assert_allclose(half, one / 2, atol=1e-6)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_silence_is_rest(model: SpeechModel, person: PersonStatistics) -> None:
    mouth = predict_mouth(model, person, np.zeros(32000, np.float32), np.arange(50) / 25)
    np.testing.assert_allclose(mouth, np.repeat(person.rest[None, list(MOUTH_INDICES)], 50, axis=0), atol=1e-6)


def test_an_offset_moves_the_mouth(model: SpeechModel, person: PersonStatistics) -> None:
    sound, times = _sound(4.0), 0.5 + np.arange(60) / 25
    late = np.concatenate([np.zeros(1600, np.float32), sound])
    moved = predict_mouth(model, person, late, times, offset_seconds=0.1)
    np.testing.assert_allclose(moved, predict_mouth(model, person, sound, times), atol=1e-4)


def test_torso_follows_the_head_slowly(track: Track, person: PersonStatistics) -> None:
    torso = following_torso(track.camera_from_head, person, track.times)
    x, truth = torso[:, 0, 3] - person.neutral_torso[0, 3], track.camera_from_torso[:, 0, 3]
    assert np.corrcoef(x, truth)[0, 1] > 0.9
    jerky = track.camera_from_head.copy()
    jerky[::2, 0, 3] += 2.0
    shaken = following_torso(jerky, person, track.times)
    assert np.abs(np.diff(shaken[:, 0, 3])).max() < 0.1


def test_a_tiny_clip_works(model: SpeechModel, talker) -> None:
    person = person_statistics(talker(seconds=0.4)[1])
    motion = said(model, person, _sound(5.0), fps=25.0)
    assert np.isfinite(motion.camera_from_head).all()
    assert motion.coefficients[:, BLINK].max() > 0.6  # the usual blink, none was seen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": np.zeros(0, np.float32)}, "empty"),
        ({"samples": np.full(16000, np.nan, np.float32)}, "not numbers"),
        ({"fps": 0.0}, "frames per second"),
        ({"fps": float("nan")}, "frames per second"),
    ],
)
def test_bad_settings_are_refused(model: SpeechModel, person: PersonStatistics, change: dict, words: str) -> None:
    settings = {"samples": _sound(1.0), "fps": 25.0, **change}
    with pytest.raises(UserError, match=words):
        said(model, person, **settings)
