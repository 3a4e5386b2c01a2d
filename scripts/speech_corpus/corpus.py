"""Hours of synthetic speech as log-mel with a class per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech.features import log_mel
from avatar.speech.model import COLUMNS_PER_TOKEN, token_times

from . import flite
from .espeak import Espeak
from .phonemes import CLASS_INDEX, SILENCE, Utterance, mouth_track, segments
from .text import Texts

# espeak-ng voice -> language of its text. Tonal: cmn, vi.
LANGUAGES = {
    "en-us": "en", "en-gb-x-rp": "en", "en-gb-scotland": "en", "de": "de", "es": "es", "es-419": "es", "it": "it",
    "pl": "pl", "ru": "ru", "cs": "cs", "pt-br": "pt", "pt": "pt", "cmn-latn-pinyin": "zh", "vi": "vi",
    "fr": "fr", "nl": "nl", "sv": "sv", "da": "da", "tr": "tr", "fi": "fi", "hu": "hu", "ro": "ro", "el": "el",
    "uk": "uk", "id": "id", "hi": "hi", "ko": "ko", "ca": "ca", "sr": "sr", "et": "et",
}  # fmt: skip
# Throats of espeak-ng that still sound like people.
VARIANTS = (
    "", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4", "+f5", "+klatt", "+klatt2",
    "+klatt4", "+Alicia", "+Andrea", "+Annie", "+belinda", "+david", "+Denis", "+Diogo", "+edward", "+Gene", "+Hugo",
    "+Jacky", "+linda", "+Lee", "+max", "+Michael", "+Mike", "+pablo", "+paul", "+quincy", "+rob", "+shelby", "+steph",
    "+zac", "+adam", "+caleb",
)  # fmt: skip
FLITE_SHARE = 0.4
"""Of the utterances: English alone, but from recorded voices."""
RESAMPLE = 0.16
"""Largest log ratio by which whole recordings are sped up: throat length, pitch and tempo at once."""


@dataclass(frozen=True)
class Corpus:
    """Everything on the tokens' clock, one utterance after another with silence between."""

    log_mel: np.ndarray
    """(2 n, M) float32."""
    classes: np.ndarray
    """(n,) uint8, indices of phonemes.CLASSES."""
    mouth: np.ndarray
    """(n, D) float32 coefficients."""


def make_corpus(seconds: float, seed: int) -> Corpus:
    """About `seconds` of speech."""
    random = np.random.default_rng(seed)
    texts, espeak = Texts(random), Espeak()
    columns, classes, mouths, total = [], [], [], 0.0
    while total < seconds:
        try:
            utterance, arpabet = _utterance(texts, espeak, random)
        except UserError as error:
            print("skipped:", error)
            continue
        parts = segments(utterance, arpabet)
        if len(utterance.samples) < utterance.rate or len(parts) < 5:
            continue
        mel, c, mouth = _tokens(utterance, parts, random)
        columns.append(mel)
        classes.append(c)
        mouths.append(mouth)
        total += len(c) * 0.02
    return Corpus(np.concatenate(columns), np.concatenate(classes), np.concatenate(mouths))


def _utterance(texts: Texts, espeak: Espeak, random: np.random.Generator) -> tuple[Utterance, bool]:
    if random.random() < FLITE_SHARE:
        voice = str(random.choice(flite.VOICES))
        pitch = random.uniform(80, 150) if voice != "slt" else random.uniform(140, 220)
        return flite.speak(texts.draw("en"), voice, float(random.uniform(0.8, 1.3)), float(pitch)), True
    voice = str(random.choice(list(LANGUAGES)))
    speed, pitch, span = int(random.integers(120, 230)), int(random.integers(15, 75)), int(random.integers(20, 90))
    return espeak.speak(texts.draw(LANGUAGES[voice]), voice + str(random.choice(VARIANTS)), speed, pitch, span), False


def _tokens(
    utterance: Utterance, parts: list[tuple[int, float, float]], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import soxr

    factor = float(np.exp(random.uniform(-RESAMPLE, RESAMPLE)))
    samples = soxr.resample(utterance.samples, utterance.rate * factor, SAMPLE_RATE)
    lead, tail = random.uniform(0.1, 0.4, 2)
    level = 10 ** (random.uniform(-32, -16) / 20) / max(float(np.sqrt(np.mean(samples**2))), 1e-6)
    padded = np.concatenate([np.zeros(int(lead * SAMPLE_RATE)), samples * level, np.zeros(int(tail * SAMPLE_RATE))])
    padded = np.clip(padded, -1, 1).astype(np.float32)
    mel, times = log_mel(padded)
    n = len(mel) // COLUMNS_PER_TOKEN
    mel, times = mel[: n * COLUMNS_PER_TOKEN], token_times(times[: n * COLUMNS_PER_TOKEN])
    lead = int(lead * SAMPLE_RATE) / SAMPLE_RATE
    parts = [(c, start / factor + lead, end / factor + lead) for c, start, end in parts]
    classes = np.full(n, CLASS_INDEX[SILENCE], np.uint8)
    for c, start, end in parts:
        classes[slice(*np.searchsorted(times, [start, end]))] = c
    return mel, classes, mouth_track(parts, times).astype(np.float32)
