"""Appearance codes: what the pictures show beside motion, in numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avatar.conventions import CODES
from avatar.track.codes import LEAST_FRAMES, appearance_codes

FRAMES, TAUGHT = 110, 100
HEAD, MOUTH, TORSO = np.split(np.arange(sum(CODES.values())), np.cumsum(list(CODES.values()))[:-1])


@pytest.fixture(scope="module")
def clip(make_person, tmp_path_factory):
    """The synthetic person without their own changes of light, whose head and body change colour in time: pictures,
    track, and what the two changes follow."""
    capture, track = make_person(tmp_path_factory.mktemp("clip"), FRAMES, 64)
    times = track.times
    flush, light = np.sin(times * 9.0), np.cos(times * 4.0)
    pictures = []
    for i, frame in enumerate(capture.frames):
        labels = track.regions.labels(i)
        change = 30 * flush[i] * (labels == 2)[..., None] * [1, 0, 0] + 25 * light[i] * (labels == 1)[..., None]
        pictures.append(np.clip(frame + change, 0, 255).astype(np.uint8))
    return pictures, track, flush, light


def coded(pictures, track, **changes):
    track = dataclasses.replace(track, **changes)
    return appearance_codes(
        pictures.__getitem__, track.regions, track.camera, track.neutral, track.camera_from_head,
        track.camera_from_torso, track.times, track.valid, track.reference_frame, TAUGHT,
    )  # fmt: skip


def explained(codes: np.ndarray, signal: np.ndarray, train: np.ndarray) -> float:
    """Share of a signal's variance on the other frames that codes explain, by a linear map learned on `train`."""
    x = np.column_stack([codes, np.ones(len(codes))])
    weights = np.linalg.lstsq(x[train], signal[train], rcond=None)[0]
    error = (x @ weights - signal)[~train]
    return float(1 - (error**2).sum() / ((signal[~train] - signal[~train].mean()) ** 2).sum())


def test_codes_tell_what_the_pictures_show_also_where_they_were_not_learned(clip) -> None:
    pictures, track, flush, light = clip
    codes = coded(pictures, track)
    assert codes.shape == (FRAMES, sum(CODES.values())) and codes.dtype == np.float32
    train = np.arange(FRAMES) < TAUGHT
    np.testing.assert_allclose(codes[train].mean(axis=0), 0, atol=0.02)
    assert np.all(codes[train].std(axis=0) < 1.02) and np.all(codes[train][:, HEAD].std(axis=0) > 0.9)
    assert explained(codes[:, HEAD], flush, train) > 0.97
    assert explained(codes[:, TORSO], light, train) > 0.97
    assert explained(codes[:, TORSO], flush, train) < 0.7  # each sheet tells of its own


def test_the_end_of_the_clip_teaches_nothing(clip) -> None:
    pictures, track, *_ = clip
    split = TAUGHT
    other = [*pictures[:split], *[np.full_like(p, 255) - p for p in pictures[split:]]]
    before, after = coded(pictures, track), coded(other, track)
    np.testing.assert_array_equal(before[:split], after[:split])
    assert np.abs(before[split:] - after[split:]).max() > 1


def test_frames_without_a_face_are_bridged(clip) -> None:
    pictures, track, *_ = clip
    valid = np.ones(FRAMES, bool)
    valid[40:45] = False
    hidden = [p if good else np.zeros_like(p) for p, good in zip(pictures, valid, strict=True)]
    codes = coded(hidden, track, valid=valid)
    between = np.linspace(codes[39], codes[45], 7)[1:-1]
    np.testing.assert_allclose(codes[40:45], between, atol=5e-3)


def test_a_short_clip_has_none_and_a_still_one_has_nothing_to_say(clip) -> None:
    pictures, track, *_ = clip
    few = np.arange(FRAMES) < LEAST_FRAMES - 5
    assert coded(pictures, track, valid=few) is None
    still = np.repeat(track.camera_from_head[:1], FRAMES, axis=0)
    codes = coded([pictures[0]] * FRAMES, track, camera_from_head=still, camera_from_torso=still)
    np.testing.assert_array_equal(codes, 0)


def test_more_frames_than_are_learned_from_get_the_same_kind_of_codes(clip, monkeypatch) -> None:
    pictures, track, flush, _ = clip
    monkeypatch.setattr("avatar.track.codes.LEARNED_FRAMES", 40)
    codes = coded(pictures, track)
    train = np.arange(FRAMES) < TAUGHT
    assert explained(codes[:, HEAD], flush, train) > 0.95


def test_a_torso_out_of_the_picture_says_nothing(clip) -> None:
    pictures, track, flush, _ = clip
    labels = [np.where(track.regions.labels(i) == 1, 0, track.regions.labels(i)) for i in range(FRAMES)]
    codes = coded(pictures, track, regions=type(track.regions)(labels))
    np.testing.assert_array_equal(codes[:, TORSO], 0)
    assert explained(codes[:, HEAD], flush, np.arange(FRAMES) < TAUGHT) > 0.97
