"""Hours of synthetic speech as log-mel with a class per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech.features import log_mel
from avatar.speech.model import COLUMNS_PER_TOKEN, token_times

from . import festival, flite
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
FLITE_SHARE, FESTIVAL_SHARE = 0.25, 0.35
"""Of the utterances: few languages, but voices cut from recordings."""
RECORDED_TWICE = 2
"""How often the real recordings are taken, each time resampled to another throat."""
EXAM_SECONDS, EXAM_RECORDINGS = 1200.0, 40
"""Synthetic speech that is scored on, and how many of the recordings are kept for it."""
SOURCES = (
    f"speech of espeak-ng ({len(LANGUAGES)} languages), flite and {len(festival.VOICES)} festival voices, and the "
    "recordings of festvox-ru"
)
RESAMPLE = 0.16
"""Largest log ratio by which whole recordings are sped up: throat length, pitch and tempo at once."""


@dataclass(frozen=True)
class Corpus:
    """Everything on the tokens' clock, one utterance after another with silence between."""

    log_mel: np.ndarray
    """(2 n, M) float16."""
    classes: np.ndarray
    """(n,) uint8, indices of phonemes.CLASSES."""
    mouth: np.ndarray
    """(n, D) float16 coefficients."""


def load_or_make(folder: Path | None, seconds: float, seed: int) -> tuple[Corpus, Corpus]:
    """The corpus to learn from and the one to score on; kept in `folder` between calls, if there is one."""
    kept = [folder / f"{name}_{seconds:.0f}_{seed}.npz" for name in ("lesson", "exam")] if folder else []
    if kept and all(path.exists() for path in kept):
        lesson, exam = (Corpus(**np.load(path)) for path in kept)
        return lesson, exam
    recorded = list(festival.recordings())
    lesson = _corpus(_synthetic(seconds, seed), recorded[:-EXAM_RECORDINGS] * RECORDED_TWICE, seed)
    exam = _corpus(_synthetic(EXAM_SECONDS, seed + 1), recorded[-EXAM_RECORDINGS:], seed + 1)
    for path, corpus in zip(kept, (lesson, exam), strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **vars(corpus))
    return lesson, exam


def _corpus(synthetic: Iterator[tuple[Utterance, bool]], recorded: list[Utterance], seed: int) -> Corpus:
    random = np.random.default_rng(seed)
    every = [_tokens(u, segments(u, arpabet), random) for u, arpabet in synthetic]
    every += [_tokens(u, segments(u), random) for u in recorded]
    mel, classes, mouth = (np.concatenate(part) for part in zip(*every, strict=True))
    return Corpus(mel.astype(np.float16), classes, mouth.astype(np.float16))


def _synthetic(seconds: float, seed: int) -> Iterator[tuple[Utterance, bool]]:
    """Utterances of about `seconds` together, and whether their phones are named in ARPABET."""
    random = np.random.default_rng(seed)
    texts, espeak, total = Texts(random), Espeak(), 0.0
    while total < seconds:
        try:
            utterance, arpabet = _utterance(texts, espeak, random)
        except UserError as error:
            print("skipped:", error)
            continue
        if len(utterance.samples) >= utterance.rate and len(utterance.phones) >= 5:
            total += len(utterance.samples) / utterance.rate
            yield utterance, arpabet


def _utterance(texts: Texts, espeak: Espeak, random: np.random.Generator) -> tuple[Utterance, bool]:
    kind, stretch = random.random(), float(random.uniform(0.8, 1.3))
    if kind < FLITE_SHARE:
        voice = str(random.choice(flite.VOICES))
        pitch = random.uniform(80, 150) if voice != "slt" else random.uniform(140, 220)
        return flite.speak(texts.draw("en"), voice, stretch, float(pitch)), True
    if kind < FLITE_SHARE + FESTIVAL_SHARE:
        voice = str(random.choice(list(festival.VOICES)))
        return festival.speak(texts.draw(festival.VOICES[voice][0]), voice, stretch), False
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
