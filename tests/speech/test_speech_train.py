"""Training: learns a talker from seconds of them, keeps their amplitude, never looks at the held-out part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from avatar.conventions import MOUTH_BLENDSHAPES
from avatar.errors import UserError
from avatar.speech import SpeechModel, SpeechModelConfig, SpeechTrainConfig, train_speech
from avatar.speech.augment import AugmentConfig, Augmenter
from avatar.speech.features import log_mel
from avatar.speech.model import SILENCE, pad_with_silence, token_times
from avatar.speech.targets import closing, speech_targets
from avatar.speech.train import _directions
from avatar.types import SpeechFeatures, Track

SMALL = SpeechTrainConfig(
    model=SpeechModelConfig(members=2, width=32, heads=2), steps=60, batch=4, stretch_tokens=64, score_every=30
)
HELD_OUT = 10.5


@pytest.fixture(scope="module")
def lesson(talker) -> tuple[SpeechFeatures, Track]:
    samples, track = talker(seconds=14.0)
    return SpeechFeatures(*log_mel(samples)), track


@pytest.fixture(scope="module")
def trained(lesson) -> tuple[SpeechModel, dict]:
    return train_speech(*lesson, SMALL, seed=3, held_out_start=HELD_OUT)


def test_learns_the_talker(trained) -> None:
    _, scores = trained
    assert scores["jaw_correlation"] > 0.8
    assert scores["correlations"]["mouthPucker"] > 0.5
    assert scores["jaw_correlation"] > scores["energy"]["jaw_correlation"]
    assert scores["mae"] < scores["mean_face"]["mae"]
    assert scores["validation_jaw"] > 0.7


def test_keeps_the_amplitude(trained) -> None:
    _, scores = trained
    assert scores["lip_spread_ratio"] == pytest.approx(1.0, abs=0.15)


def test_the_same_seed_gives_the_same_model(lesson, trained) -> None:
    before = torch.random.get_rng_state()
    again, _ = train_speech(*lesson, SMALL, seed=3, held_out_start=HELD_OUT)
    assert torch.equal(torch.random.get_rng_state(), before)  # and leaves the caller's random numbers alone
    for name, value in trained[0].state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_held_out_part_is_not_looked_at(lesson, trained) -> None:
    features, track = lesson
    later = track.times >= HELD_OUT
    coefficients, landmarks, mel = track.coefficients.copy(), track.landmarks.copy(), features.log_mel.copy()
    coefficients[later], landmarks[later], mel[features.times >= HELD_OUT] = 0.9, 0.0, 3.0
    other = dataclasses.replace(track, coefficients=coefficients, landmarks=landmarks)
    config = dataclasses.replace(SMALL, steps=60)
    again, _ = train_speech(dataclasses.replace(features, log_mel=mel), other, config, seed=3, held_out_start=HELD_OUT)
    for name, value in trained[0].state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_memory_listens_most_to_what_follows_the_mouth(trained) -> None:
    model, _ = trained
    c = model.config
    by_token = model.memory.directions.view(c.memory_bands, c.memory_tokens, -1).square().sum((0, 2))
    now = c.memory_tokens - 1 - c.look_ahead_tokens
    assert int(by_token.argmax()) in (now + 1, now + 2, now + 3)  # 40 ms later
    assert by_token[now + 2] > 4 * by_token[0]


def test_the_memory_hears_what_is_said_more_than_how_loud() -> None:
    """Two windows that differ by the same amount: in loudness alone, and in the shape of the spectrum alone."""
    shape = SpeechModelConfig(memory_bands=8, memory_tokens=10, memory_rank=0)
    config = SpeechTrainConfig(model=shape)
    windows = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))
    _, directions = _directions(windows, 0.0, config)
    louder = torch.full((8, 10), 0.1)
    brighter = 0.1 * torch.linspace(-1, 1, 8).sign()[:, None].expand(8, 10)
    far = [float((change.flatten() @ directions).norm()) for change in (louder, brighter)]
    assert far[0] == pytest.approx(config.loudness_weight * far[1], rel=1e-3)


def test_shut_lips_are_learned(trained, lesson) -> None:
    """The talker's mouth shuts at times: the pull knows which way that is, and when."""
    model, _ = trained
    jaw = MOUTH_BLENDSHAPES.index("jawOpen")
    assert model.closing[jaw] == -1
    assert model.rest[jaw] - 0.05 < model.closed[jaw] < model.target_mean[jaw]
    assert model.closing_from < model.closing_to
    features, track = lesson
    times = token_times(features.times)
    shut = torch.from_numpy(closing(times, track))
    state, mel = model.initial_state(), pad_with_silence(torch.from_numpy(features.log_mel)[None], 6)
    with torch.no_grad():
        sure = model.member_step(mel, state)[0].mean(0)[0, 6:, -1][: len(shut)]
    assert sure[shut].mean() > sure[~shut].mean() + 0.2


def test_without_a_held_out_part_there_are_no_held_out_scores(lesson) -> None:
    config = dataclasses.replace(SMALL, steps=2)
    model, scores = train_speech(*lesson, config)
    assert "jaw_correlation" not in scores
    assert not model.training
    assert scores["validation_jaw"] > 0.5  # the memory alone


def test_too_little_speech_is_refused(talker) -> None:
    samples, track = talker(seconds=1.2)
    with pytest.raises(UserError, match=r"less than 1\.5 s"):
        train_speech(SpeechFeatures(*log_mel(samples)), track, SMALL)


def test_a_still_mouth_is_learned_as_still(lesson) -> None:
    features, track = lesson
    still = dataclasses.replace(track, coefficients=np.full_like(track.coefficients, 0.2))
    model, scores = train_speech(features, still, dataclasses.replace(SMALL, steps=2), held_out_start=HELD_OUT)
    mouth = model(torch.from_numpy(features.log_mel)[None])
    assert torch.allclose(mouth, torch.full_like(mouth, 0.2), atol=1e-6)
    assert scores["mouth_correlation"] == 0.0


def test_variations_keep_sound_and_mouth_together() -> None:
    """A single loud column and the target's single peak stay at the same place under tempo and shift."""
    mel = torch.full((400, 64), SILENCE)
    mel[200:202] = 0.0
    targets = torch.zeros(200, 1)
    targets[100] = 1.0
    gentle = AugmentConfig(
        vocal_tract=0.0, gain_db=0.0, equaliser_db=0.0, reverb_chance=0.0, noise_chance=0.0, masked_bands=0.0,
        masked_columns=0.0, pause_chance=0.0, shift_columns=0.0, tempo=0.2,
    )  # fmt: skip
    augment = Augmenter(gentle, torch.Generator().manual_seed(0))
    x, y, w = augment(mel, targets, torch.ones(2, 200), torch.zeros(1), batch=16, tokens=150)
    assert x.shape == (2, 16, 300, 64)
    loudest, peak = x.mean(-1).argmax(-1) / 2, y[..., 0].argmax(-1)
    seen = y.amax(dim=(2, 3)) > 0.3
    assert seen.sum() > 10
    assert (loudest - peak)[seen].abs().max() <= 1.0
    assert set(w.unique().tolist()) == {0.0, 1.0}  # stretches that leave the clip are not learned from there
    assert w.mean() > 0.8


def test_silenced_stretches_rest_the_mouth() -> None:
    pausing = AugmentConfig(pause_chance=1.0, noise_chance=0.0, reverb_chance=0.0, masked_bands=0.0, masked_columns=0.0)
    augment = Augmenter(pausing, torch.Generator().manual_seed(0))
    x, y, _ = augment(torch.zeros(400, 64), torch.ones(200, 1), torch.ones(1, 200), torch.full((1,), -2.0), 8, 96)
    silent = (x.mean(-1) < SILENCE + 0.01).unflatten(-1, (-1, 2)).all(-1)
    assert 0.1 < silent.float().mean() < 0.5
    assert y[..., 0][~silent].median() == 1.0
    assert (y[..., 0][silent] < -1.9).float().mean() > 0.5


def test_moments_at_which_the_lips_shut_are_found(talker) -> None:
    _, track = talker(seconds=8.0)
    opening = np.full(len(track.times), 30.0)
    opening[20:23], opening[100:150] = 0.0, 0.0  # a p, and a long rest
    landmarks = track.landmarks.copy()
    landmarks[:, 14, 1] = landmarks[:, 13, 1] + opening
    landmarks[:, 14, 0] = landmarks[:, 13, 0]
    times = np.arange(400) / 50
    closing = speech_targets(dataclasses.replace(track, landmarks=landmarks), times).closing
    assert closing[41:45].all()
    assert not closing[60:195].any()
    assert not closing[215:285].any()  # a resting mouth is no p
