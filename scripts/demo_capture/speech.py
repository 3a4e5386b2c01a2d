"""What the demo person says, with the exact time of every phoneme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from speech_corpus.espeak import Espeak
from speech_corpus.phonemes import Phone

TEXT = (
    "Hello, and welcome. I am not a real person. Every hair, every pore, and every word of mine, was made by a "
    "program. Please watch my mouth while I speak. Big, bold vowels. Soft, quiet pauses. Five very fine voices, "
    "and a few whooshing, puckered sounds. My eyes wander, my head turns, and my shoulders sway. "
    "Film yourself like this, and you will soon have an avatar of your own."
)
VOICE, WORDS_PER_MINUTE, PITCH = "en-us", 162, 40


@dataclass(frozen=True)
class Speech:
    """Mono speech."""

    samples: np.ndarray
    """(S,) float32, -1..1."""
    rate: int
    phonemes: tuple[Phone, ...]
    """By espeak's own mnemonics."""
    sentence_starts: tuple[float, ...]
    """Seconds."""


def speak(text: str = TEXT, lead: float = 0.6, tail: float = 0.9) -> Speech:
    """Says `text` with `lead` and `tail` seconds of silence around it."""
    speaker = Espeak(ipa=False)
    said = speaker.speak(text, VOICE, WORDS_PER_MINUTE, PITCH)
    silence = [np.zeros(int(seconds * said.rate)) for seconds in (lead, tail)]
    samples = np.concatenate([silence[0], said.samples, silence[1]]).astype(np.float32)
    samples *= 0.7 / max(float(np.abs(samples).max()), 1e-6)
    phonemes = tuple(Phone(p.name, p.start + lead, p.end + lead) for p in said.phones)
    return Speech(samples, said.rate, phonemes, tuple(start + lead for start in speaker.sentences))
