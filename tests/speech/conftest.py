"""A made-up talker: syllables whose loudness and colour move the mouth, as a `Track` and its sound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from avatar.conventions import BLENDSHAPE_INDEX, LANDMARKS, SAMPLE_RATE
from avatar.speech.model import SILENCE, SpeechModel
from avatar.types import Camera, Track


def _syllables(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Openness and roundness of the mouth at SAMPLE_RATE, 0..1: syllables of random length and vowel, with pauses."""
    random = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    openness, roundness, at = np.zeros(n), np.zeros(n), 0
    while at < n:
        length = int(random.uniform(0.12, 0.35) * SAMPLE_RATE)
        end = min(n, at + length)
        bump = np.sin(np.pi * np.arange(end - at) / length) ** 2
        loud = random.uniform(0.2, 1.0) if random.random() > 0.15 else 0.0
        openness[at:end], roundness[at:end] = loud * bump, random.uniform(0, 1) * bump
        at = end
    return openness, roundness


@pytest.fixture(scope="session")
def talker() -> Callable[..., tuple[np.ndarray, Track]]:
    """Makes (samples, track) of a talker; `late` delays the sound by so many seconds."""

    def make(seconds: float = 12.0, late: float = 0.0, seed: int = 0, fps: float = 25.0) -> tuple[np.ndarray, Track]:
        random = np.random.default_rng(seed + 1)
        openness, roundness = _syllables(seconds, seed)
        t = np.arange(len(openness)) / SAMPLE_RATE
        pulses = np.sign(np.sin(2 * np.pi * 120 * t + 3 * np.sin(2 * np.pi * 0.7 * t)))  # a buzzing larynx
        low = np.convolve(pulses, np.hanning(40) / 20, mode="same")
        sound = openness * (roundness * low + (1 - roundness) * (pulses - low)) * 0.3
        sound = sound + 0.003 * random.standard_normal(len(sound))
        shift = round(late * SAMPLE_RATE)
        samples = np.roll(sound, shift).astype(np.float32)

        times = np.arange(int(seconds * fps)) / fps
        lead = 0.035  # a mouth opens before it sounds: offset.NATURAL_LAG_SECONDS
        opened, rounded = (np.interp(times + lead, t, signal) for signal in (openness, roundness))
        return samples, _track(times, opened, rounded, random)

    return make


@pytest.fixture(scope="session")
def loudness_memory() -> Callable[[SpeechModel], None]:
    """Gives a model of memory_size 1 a memory of silence alone: z is 2 for loud sound and -1 in silence."""

    def fill(model: SpeechModel) -> None:
        c, inputs = model.config, len(model.memory.mean)
        unit = (0.005 / c.memory_sharpness) ** 0.5
        model.memory.directions.zero_()[:, 0] = unit / inputs**0.5
        model.memory.centres.zero_()[0, 0] = unit * inputs**0.5 * (SILENCE - c.mel_mean) / c.mel_std
        model.memory.weight.fill_(-3.0)
        model.memory.bias.fill_(2.0)

    return fill


def _track(times: np.ndarray, opened: np.ndarray, rounded: np.ndarray, random: np.random.Generator) -> Track:
    n = len(times)
    coefficients = np.zeros((n, 52), np.float32)
    coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.05 + 0.4 * opened
    coefficients[:, BLENDSHAPE_INDEX["mouthPucker"]] = 0.1 + 0.5 * rounded
    coefficients[:, BLENDSHAPE_INDEX["mouthSmileLeft"]] = 0.3 + 0.1 * np.sin(times)
    blinks = np.exp(-0.5 * ((times[:, None] - np.arange(1.5, times[-1] + 3, 3.0)) / 0.06) ** 2).sum(axis=1)
    coefficients[:, [BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]] = 0.1 + 0.6 * blinks[:, None]
    coefficients[:, BLENDSHAPE_INDEX["browInnerUp"]] = 0.2 + 0.1 * np.sin(0.9 * times)
    coefficients += 0.005 * random.standard_normal(coefficients.shape)

    face = np.random.default_rng(7).uniform(150, 350, (LANDMARKS, 2))  # the same face for everyone
    face[[33, 263]], face[[13, 14]], face[[61, 291]] = (
        [[180, 200], [320, 200]],
        [[250, 300]] * 2,
        [[215, 300], [285, 300]],
    )
    landmarks = np.repeat(face[None], n, axis=0)
    landmarks[:, 14, 1] += 2 + 40 * opened
    landmarks[:, 61, 0] += 15 * rounded
    landmarks[:, 291, 0] -= 15 * rounded
    landmarks += 0.3 * random.standard_normal(landmarks.shape)

    head = np.repeat(np.diag([1.0, -1.0, -1.0, 1.0])[None], n, axis=0)
    yaw = 0.1 * np.sin(0.8 * times)
    head[:, 0, 0], head[:, 0, 2], head[:, 2, 0], head[:, 2, 2] = np.cos(yaw), np.sin(yaw), np.sin(yaw), -np.cos(yaw)
    head[:, :3, 3] = np.stack([np.sin(0.5 * times), 0.3 * np.cos(0.7 * times), 60 + 0 * times], axis=1)
    torso = np.repeat(np.diag([1.0, -1.0, -1.0, 1.0])[None], n, axis=0)
    torso[:, :3, 3] = np.stack([0.5 * np.sin(0.5 * times), 0 * times, 60 + 0 * times], axis=1)
    return Track(
        camera=Camera(500.0, 256.0, 256.0, 512, 512),
        times=times,
        valid=np.ones(n, bool),
        camera_from_head=head,
        camera_from_torso=torso,
        coefficients=coefficients.clip(0, 1),
        landmarks=landmarks.astype(np.float32),
        neutral=np.zeros((LANDMARKS, 3), np.float32),
        regions=_NoRegions(n),
        backdrop=np.zeros((512, 512, 3), np.uint8),
        reference_frame=0,
    )


class _NoRegions:
    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def labels(self, index: int) -> np.ndarray:
        return np.zeros((512, 512), np.uint8)

    def matte(self, index: int) -> np.ndarray:
        return np.zeros((512, 512), np.uint8)
