"""Log-mel spectrogram of 16 kHz speech, the same numbers frame by frame as in one go.

Every column uses only samples that have already arrived (the window ends with the newest sample) and nothing is
normalised by the utterance, so a microphone gives the same columns as a file. Column ``t`` covers samples
``[(t + 1) * HOP - N_FFT, (t + 1) * HOP)``; before the first sample there is silence. The filterbank is the one of
``librosa.filters.mel`` (Slaney's scale and area normalisation, after M. Slaney, Auditory Toolbox, 1998), written
out here so that driving an avatar needs no librosa; a test compares the two.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError

N_FFT = 512
"""Window and transform length in samples: 32 ms, a power of two for the player's FFT."""
HOP = 160
"""Samples between columns: 100 columns per second."""
N_MELS = 64
COLUMN_RATE = SAMPLE_RATE / HOP
"""Columns per second."""
FLOOR = 1e-4
"""Added to the mel power before the logarithm: about the hiss of a quiet room, so digital silence looks like one."""
MINIMUM_SECONDS = 0.1
"""Shorter sound holds no syllable."""

_SLANEY_HZ_PER_MEL = 200.0 / 3.0  # linear part of Slaney's scale
_SLANEY_BREAK_HZ = 1000.0  # above it the scale is logarithmic
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def _hz_from_mel(mel: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mel - break_mel))
    return np.where(mel < break_mel, mel * _SLANEY_HZ_PER_MEL, above)


@lru_cache(maxsize=4)
def mel_filterbank(n_mels: int = N_MELS) -> Float64[np.ndarray, "n_mels bins"]:
    """Triangular filters over the N_FFT // 2 + 1 power bins, 0 Hz to the Nyquist frequency, each of unit area."""
    nyquist = SAMPLE_RATE / 2
    top_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL + np.log(nyquist / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    corners = _hz_from_mel(np.linspace(0.0, top_mel, n_mels + 2))
    bins = np.linspace(0.0, nyquist, N_FFT // 2 + 1)
    rising = (bins[None] - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - bins[None]) / np.diff(corners)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (corners[2:] - corners[:-2]))[:, None]


@lru_cache(maxsize=1)
def _window() -> Float64[np.ndarray, " n_fft"]:
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)  # periodic Hann


def column_times(first: int, count: int) -> Float64[np.ndarray, " count"]:
    """Centre of the window of columns `first`.. in seconds from the first sample (column 0: -6 ms)."""
    return ((np.arange(first, first + count) + 1) * HOP - N_FFT / 2) / SAMPLE_RATE


class LogMelStream:
    """Turns samples into log-mel columns as they arrive, in chunks of any size."""

    def __init__(self, n_mels: int = N_MELS) -> None:
        self._n_mels = n_mels
        self._pending = np.zeros(N_FFT - HOP, np.float32)

    def push(self, samples: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "T M"]:
        """Columns completed by these samples (possibly none); 16 kHz mono in -1..1."""
        pending = np.concatenate([self._pending, np.asarray(samples, np.float32)])
        count = max(0, (len(pending) - (N_FFT - HOP)) // HOP)
        self._pending = pending[count * HOP :]
        if count == 0:
            return np.zeros((0, self._n_mels), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(pending, N_FFT)[: count * HOP : HOP]
        return _log_mel_of_frames(frames, self._n_mels)


_FRAMES_PER_BLOCK = 4096  # bounds the memory of long sound: 4096 frames are 17 MB in float64


def _log_mel_of_frames(frames: Float32[np.ndarray, "T n_fft"], n_mels: int) -> Float32[np.ndarray, "T M"]:
    bank = mel_filterbank(n_mels).T
    out = np.empty((len(frames), n_mels), np.float32)
    for start in range(0, len(frames), _FRAMES_PER_BLOCK):
        block = frames[start : start + _FRAMES_PER_BLOCK].astype(np.float64) * _window()
        # float64 throughout: the rounding of a matrix product depends on its shape, and must not show in float32
        power = np.abs(np.fft.rfft(block, axis=1)) ** 2
        out[start : start + len(block)] = np.log(power @ bank + FLOOR)
    return out


def check_samples(samples: np.ndarray) -> Float32[np.ndarray, " S"]:
    """The sound as float32 mono in -1..1, clipped to it, or a UserError that says what is wrong with it."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise UserError(
            f"The sound must be one channel of samples, not an array of shape {samples.shape}; mix it down."
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise UserError(
            f"The sound must be floating point samples in -1..1, not {samples.dtype}; divide by full scale."
        )
    if len(samples) == 0:
        raise UserError("The sound is empty; give a recording of speech.")
    samples = finite(samples)
    seconds = len(samples) / SAMPLE_RATE
    if seconds < MINIMUM_SECONDS:
        raise UserError(f"The sound is only {seconds:.2f} s long; at least {MINIMUM_SECONDS} s of speech is needed.")
    return samples.clip(-1, 1)


def finite(samples: np.ndarray) -> Float32[np.ndarray, " S"]:
    """The same samples in single precision, or a UserError where they are no numbers there."""
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise UserError("The sound holds samples that are not numbers (NaN or infinite); export it again.")
    return samples


def log_mel(samples: np.ndarray, n_mels: int = N_MELS) -> tuple[Float32[np.ndarray, "T M"], Float64[np.ndarray, " T"]]:
    """Log-mel spectrogram of a whole recording: natural logarithm of the mel power.

    Args:
        samples: (S,) mono float at SAMPLE_RATE, -1..1.
        n_mels: number of mel bands M.

    Returns:
        Columns (T, M) with T = S // HOP, and the time of each window's centre in seconds from the first sample.

    Raises:
        UserError: empty, shorter than MINIMUM_SECONDS, more than one channel, not floating point, NaN or infinite.
    """
    columns = LogMelStream(n_mels).push(check_samples(samples))
    return columns, column_times(0, len(columns))
