"""A speech encoder of the user's own: the same numbers in pieces as in one go, heard by the memory, never required."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.conventions import MOUTH_INDICES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech import (
    PersonStatistics,
    SpeechEncoder,
    SpeechModel,
    SpeechStream,
    SpeechTrainConfig,
    encoded_sound,
    load_encoder,
    person_statistics,
    train_speech,
)
from avatar.speech.encoder import PAST_TOKENS, TOKEN_SAMPLES, EncoderStream
from avatar.speech.features import log_mel
from avatar.speech.motion import joined
from avatar.speech.scores import whole_mouth
from avatar.speech.targets import JAW
from avatar.types import SpeechFeatures, Track


class Loudness(torch.nn.Module):
    """Stands in for a network: of each token the loudness of its samples, and of a token at the window's end."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        tokens = windows.unflatten(1, (-1, TOKEN_SAMPLES)).square().mean(-1).sqrt()
        last = tokens[:, -1:].expand_as(tokens)
        return torch.stack([tokens, last], dim=-1)


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return SpeechEncoder("loudness", "0" * 64, 2, Loudness())


@pytest.fixture(scope="module")
def lesson(talker, encoder: SpeechEncoder) -> tuple[np.ndarray, SpeechFeatures, Track]:
    samples, track = talker(seconds=16.0)
    columns, times = log_mel(samples)
    return samples, SpeechFeatures(columns, times, 0.0, encoded_sound(encoder, samples)), track


@pytest.fixture(scope="module")
def trained(lesson: tuple[np.ndarray, SpeechFeatures, Track]) -> SpeechModel:
    _, features, track = lesson
    return train_speech(features, track, SpeechTrainConfig(steps=1))[0]


@pytest.fixture(scope="module")
def person(lesson: tuple[np.ndarray, SpeechFeatures, Track]) -> PersonStatistics:
    return person_statistics(lesson[2])


def pieces(samples: np.ndarray, seed: int) -> list[np.ndarray]:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(samples), 40))
    return np.split(samples, cuts)


def test_tokens_lie_where_their_sound_is(encoder: SpeechEncoder) -> None:
    samples = np.zeros(2 * SAMPLE_RATE, np.float32)
    samples[20 * TOKEN_SAMPLES : 21 * TOKEN_SAMPLES] = 1.0
    heard = encoded_sound(encoder, samples)
    assert len(heard) == 100
    np.testing.assert_allclose(heard[[18, 19, 20, 21], 0], [0, 0.5, 0.5, 0])  # a mouth hears its token and the next


def test_pieces_give_the_same_as_the_whole(encoder: SpeechEncoder) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLE_RATE + 77).astype(np.float32)
    whole = encoded_sound(encoder, samples)
    stream = EncoderStream(encoder)
    parts = [*(stream.push(piece) for piece in pieces(samples, 1)), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(parts)[: len(whole)], whole)


def test_it_is_known_when_log_mel_is(encoder: SpeechEncoder) -> None:
    """A model tells a mouth look_ahead_tokens after its sound; by then the encoder has said what it has to."""
    stream, known = EncoderStream(encoder), 0
    ahead = SpeechTrainConfig().model.look_ahead_tokens
    for token in range(3 * PAST_TOKENS):
        known += len(stream.push(np.zeros(TOKEN_SAMPLES, np.float32)))
        assert known >= token - ahead + 1


def test_a_stream_says_what_the_whole_sound_does(
    trained: SpeechModel, person: PersonStatistics, lesson: tuple, encoder: SpeechEncoder
) -> None:
    samples, features, _ = lesson
    stream = SpeechStream(trained, person, 50.0, encoder=encoder)
    motion = joined([*(stream.push(piece) for piece in pieces(samples, 2)), stream.finish()])
    once = SpeechStream(trained, person, 50.0, encoder=encoder)
    whole = joined([once.push(samples), once.finish()])
    np.testing.assert_allclose(motion.coefficients, whole.coefficients, atol=1e-4)
    said = whole_mouth(trained, features.log_mel, features.encoded)
    assert len(motion.times) == len(said) == 800
    np.testing.assert_allclose(motion.coefficients[:, MOUTH_INDICES[JAW]], said[:, JAW], atol=1e-3)


def test_what_the_encoder_says_moves_the_mouth(trained: SpeechModel, lesson: tuple) -> None:
    _, features, _ = lesson
    assert features.encoded is not None and trained.config.encoder_width == 2
    heard = whole_mouth(trained, features.log_mel, features.encoded)
    deaf = whole_mouth(trained, features.log_mel, np.zeros_like(features.encoded))
    assert np.abs(heard - deaf).max() > 0.1
    with pytest.raises(ValueError, match="speech encoder"):
        trained(torch.from_numpy(features.log_mel)[None])


def test_without_an_encoder_nothing_changes(lesson: tuple) -> None:
    _, features, track = lesson
    alone = dataclasses.replace(features, encoded=None)
    model, _ = train_speech(alone, track, SpeechTrainConfig(steps=1))
    assert model.config.encoder_width == 0
    np.testing.assert_array_equal(
        whole_mouth(model, features.log_mel), whole_mouth(model, features.log_mel, features.encoded)
    )


# --- weights in a folder ---


def test_a_hubert_is_heard_piece_by_piece(tiny_hubert: Path) -> None:
    encoder = load_encoder(tiny_hubert)
    assert (encoder.name, encoder.width, len(encoder.network.network.encoder.layers)) == ("tiny", 24, 3)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * SAMPLE_RATE).astype(np.float32)
    whole, stream = encoded_sound(encoder, samples), EncoderStream(encoder)
    parts = [*(stream.push(piece) for piece in pieces(samples, 3)), stream.finish()]
    assert whole.shape == (100, 24)
    np.testing.assert_allclose(np.concatenate(parts)[:100], whole, atol=1e-4)
    assert np.abs(np.diff(whole, axis=0)).max() > 1e-3
    np.testing.assert_allclose(encoded_sound(encoder, 0.3 * samples), whole, atol=1e-2)  # a level is no sound


@pytest.mark.parametrize("kind", ["Wav2Vec2", "WavLM"])
def test_other_kinds_are_heard(kind: str, tmp_path: Path) -> None:
    """In the shape of the large models: layers normalised first, and convolutions by layer."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, do_stable_layer_norm=True,
        feat_extract_norm="layer", conv_bias=True,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE).astype(np.float32)
    heard = encoded_sound(load_encoder(tmp_path), samples)
    assert heard.shape == (50, 24) and np.isfinite(heard).all() and heard.std() > 0.1


def test_other_weights_are_told_apart(tiny_hubert: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.HubertConfig.from_pretrained(tiny_hubert)
    transformers.HubertModel(config).save_pretrained(tmp_path / "other")
    assert (
        load_encoder(tiny_hubert).sha256 == load_encoder(tiny_hubert).sha256 != load_encoder(tmp_path / "other").sha256
    )


def test_what_is_no_encoder_is_refused(tiny_hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no speech encoder in"):
        load_encoder(tmp_path)
    copy = tmp_path / "pickled"
    copy.mkdir()
    (copy / "config.json").write_bytes((tiny_hubert / "config.json").read_bytes())
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no \.safetensors"):
        load_encoder(copy)
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(copy)
    for change, said in ((b'"model_type": "bert"', "kind 'bert'"), (b'"model_type": "nobody-knows"', "cannot be read")):
        text = (tiny_hubert / "config.json").read_bytes().replace(b'"model_type": "hubert"', change)
        (copy / "config.json").write_bytes(text)
        with pytest.raises(UserError, match=said):
            load_encoder(copy)
