"""Log-mel: equal to librosa's, equal however it is chunked, and clear about unusable sound."""

from __future__ import annotations

import numpy as np
import pytest

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech.features import FLOOR, HOP, N_FFT, N_MELS, LogMelStream, column_times, log_mel, mel_filterbank


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.2 * np.random.default_rng(0).standard_normal(SAMPLE_RATE * 2 + 77)).astype(np.float32)


def test_equals_librosa(noise: np.ndarray) -> None:
    librosa = pytest.importorskip("librosa")
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS)
    np.testing.assert_allclose(mel_filterbank(), bank, atol=1e-8)  # librosa's bank is float32, largest value 0.03
    before = np.zeros(N_FFT - HOP, np.float32)
    power = librosa.feature.melspectrogram(
        y=np.concatenate([before, noise]), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=N_MELS, center=False
    )
    columns, _ = log_mel(noise)
    np.testing.assert_allclose(columns, np.log(power.T + FLOOR), atol=1e-4)  # float32 transform; worst seen 1e-6


@pytest.mark.parametrize("chunk", [1, 159, 160, 161, 1000])
def test_chunks_give_the_same_numbers(noise: np.ndarray, chunk: int) -> None:
    sound = noise[:8001] if chunk == 1 else noise
    stream, parts = LogMelStream(), []
    for start in range(0, len(sound), chunk):
        parts.append(stream.push(sound[start : start + chunk]))
    whole, times = log_mel(sound)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(whole) == len(times) == len(sound) // HOP


def test_a_column_knows_nothing_of_later_samples(noise: np.ndarray) -> None:
    changed = noise.copy()
    changed[50 * HOP :] = 0
    same = (log_mel(changed)[0] == log_mel(noise)[0]).all(axis=1)
    assert same[:50].all()
    assert not same[50:55].any()


def test_time_is_the_centre_of_the_window() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[8000] = 1.0
    columns, times = log_mel(click)
    assert times[columns.sum(axis=1).argmax()] == pytest.approx(0.5, abs=0.5 * HOP / SAMPLE_RATE)
    np.testing.assert_allclose(column_times(10, 3), times[10:13])


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(100, np.float32), "0.01 s long"),
        (np.full(16000, np.nan, np.float32), "not numbers"),
        (np.zeros((2, 16000), np.float32), "one channel"),
        (np.zeros(16000, np.int16), "floating point"),
    ],
)
def test_unusable_sound_is_refused(samples: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        log_mel(samples)
