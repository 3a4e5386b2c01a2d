"""What is made of sound before it is asked about the mouth: level and colour of the person's own clip, and who speaks.

A model has heard its person at one level only, so quieter or louder speech is brought to that level by a slow causal
gain on the mel power. It follows the active speech level alone (the idea of ITU-T P.56: the mean over moments that
stand out), never a room. Another voice or microphone also has another mean spectrum; as far as it differs by more than
chance, it is brought to the person's (cepstral mean subtraction, Atal 1974, but of the difference alone, so that the
own voice stays as it is). Where neither a voice above the room's floor nor syllables are heard, the mouth rests,
however loud the room. Everything goes token by token and causally; ``modules/hearing.js`` of the player mirrors it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64

from avatar.speech.features import FLOOR
from avatar.speech.model import COLUMNS_PER_TOKEN, TOKEN_RATE, SpeechModel, pad_with_silence

LARGEST_GAIN_DB = 18.0
"""As far as speech is raised or lowered: more would make a voice of a room."""
OWN_DB = 1.5
"""A person's own level goes up and down by this much; so much of a difference is left alone."""
CHANCE_DB = 30.0
"""Two mean spectra of one person, of n and m tokens, differ by at most about this much times the root of 1 / n + 1 / m,
as other words were said; so much of a difference is left alone."""
SURE_TOKENS = 50.0
"""After so many tokens of speech, what was heard of its level counts as much as what was assumed."""
KEPT_TOKENS = 1000.0
"""Tokens of speech over which a level is forgotten: 20 s."""
STANDS_OUT_DB = 10.0
"""Syllables stand out from the least of the last SYLLABLE_TOKENS by this much, a steady noise does not."""
SYLLABLE_TOKENS = 25
LEAST_DB = -55.0
"""Sound below this is no speech; a full-scale voice is at about 0."""
BELOW_TOP_DB = 20.0
"""The level is the mean over tokens at most this far below the loudest twentieth."""
ATTACK_SECONDS, RELEASE_SECONDS = 0.08, 0.4
"""Time constants at which a voice counts as there and as gone."""
QUIET = 0.05
"""Share of a voice below which the mouth rests."""
SHARE_SECONDS = 0.1
"""It takes this long to come to rest and to leave it."""
_DB_PER_NAT = 10 / math.log(10)
_BINS_DB = np.arange(-90.0, 30.0)  # lower edges of the level's histogram


class Level:
    """How loud someone speaks, in dB of mel power: a mean over tokens that stand out."""

    def __init__(self, kept: float = math.inf) -> None:
        self._fade = 1 - 1 / kept
        self._count, self._sum = np.zeros(len(_BINS_DB)), np.zeros(len(_BINS_DB))
        self._recent: deque[float] = deque(maxlen=SYLLABLE_TOKENS)
        self.tokens = 0.0

    def stands_out(self, decibel: float) -> bool:
        """Whether the next token is one of a syllable."""
        self._recent.append(decibel)
        return decibel > max(LEAST_DB, min(self._recent) + STANDS_OUT_DB)

    def add(self, decibel: float) -> None:
        """Counts a token of speech."""
        for sums, value in ((self._count, 1.0), (self._sum, decibel)):
            sums *= self._fade
            sums[min(max(math.floor(decibel - _BINS_DB[0]), 0), len(_BINS_DB) - 1)] += value
        self.tokens = self.tokens * self._fade + 1

    @property
    def decibel(self) -> float | None:
        """The level; None before any speech."""
        if self.tokens == 0:
            return None
        so_far = np.cumsum(self._count)
        top = _BINS_DB[np.searchsorted(so_far, 0.95 * so_far[-1])]
        near = top - BELOW_TOP_DB < _BINS_DB
        return float(self._sum[near].sum() / self._count[near].sum())


class Spectrum(NamedTuple):
    """The colour of a voice."""

    mean: Float64[np.ndarray, " M"]
    """Of the log-mel of tokens that stand out."""
    tokens: float
    """So many."""


def own_spectrum(model: SpeechModel) -> Spectrum | None:
    """Of the speech that a model learned from; None in files of before colours were followed."""
    tokens = float(model.spectrum_tokens)
    return Spectrum(model.spectrum.cpu().numpy().astype(np.float64), tokens) if tokens else None


class Colour:
    """How the mean spectrum of what is heard differs from the person's own, band by band; its mean is the level's."""

    def __init__(self, own: Spectrum | None) -> None:
        """`own`: None where it is not known."""
        self._own, self._fade = own, 1 - 1 / KEPT_TOKENS
        self._sum, self._tokens = 0.0, 0.0
        self.gain: Float64[np.ndarray, " M"] | None = None
        """What brings it to the person's, dB; None for nothing."""

    def add(self, columns: Float32[np.ndarray, "T M"]) -> None:
        """Counts a token of speech."""
        if self._own is None:
            return
        self._sum = self._sum * self._fade + columns.mean(axis=0, dtype=np.float64)
        self._tokens = self._tokens * self._fade + 1
        missing = self._own.mean - self._sum / self._tokens
        missing = (missing - missing.mean()) * _DB_PER_NAT
        # The share of a measured difference that is more than chance (James and Stein 1961).
        chance = CHANCE_DB**2 * (1 / self._tokens + 1 / self._own.tokens)
        share = 1 - chance / max(float((missing**2).mean()), 1e-12)
        self.gain = (share * missing).clip(-LARGEST_GAIN_DB, LARGEST_GAIN_DB) if share > 0 else None


def power_decibel(columns: Float32[np.ndarray, "T M"]) -> float:
    """Mean mel power of some log-mel columns, in dB."""
    power = np.maximum(np.exp(columns.astype(np.float64)) - FLOOR, 0).mean()
    return 10 * math.log10(power + 1e-12)


class Spoken(NamedTuple):
    """What is known of someone's speech."""

    level: float
    """Of `Level`, dB."""
    spectrum: Spectrum


class TokenCutter:
    """Cuts log-mel, which comes in any number of columns at a time, into tokens."""

    def __init__(self, n_mels: int) -> None:
        self.left: Float32[np.ndarray, "T M"] = np.zeros((0, n_mels), np.float32)
        """Columns of a token that is not whole yet."""

    def cut(self, columns: Float32[np.ndarray, "T M"]) -> Float32[np.ndarray, "n 2 M"]:
        """The tokens that these columns complete."""
        columns = np.concatenate([self.left, columns])
        count = len(columns) // COLUMNS_PER_TOKEN * COLUMNS_PER_TOKEN
        self.left = columns[count:]
        return columns[:count].reshape(-1, COLUMNS_PER_TOKEN, columns.shape[1])


class SpeechMeter:
    """Level and colour of the speech of a recording."""

    def __init__(self, n_mels: int) -> None:
        self._level, self._tokens, self._sum = Level(), TokenCutter(n_mels), np.zeros(n_mels)

    def hear(self, columns: Float32[np.ndarray, "T M"]) -> None:
        """Counts what stands out of the next columns, any number at a time."""
        for token in self._tokens.cut(columns):
            decibel = power_decibel(token)
            if self._level.stands_out(decibel):
                self._level.add(decibel)
                self._sum += token.mean(axis=0, dtype=np.float64)

    @property
    def spoken(self) -> Spoken | None:
        """So far; None where nothing stood out."""
        level, tokens = self._level.decibel, self._level.tokens
        return None if level is None else Spoken(level, Spectrum(self._sum / tokens, tokens))


def measured_speech(columns: Float32[np.ndarray, "T M"]) -> Spoken | None:
    """Of a whole recording; None where nothing stands out."""
    meter = SpeechMeter(columns.shape[1])
    meter.hear(columns)
    return meter.spoken


class Heard(NamedTuple):
    """What the next 20 ms of a stream are."""

    columns: Float32[np.ndarray, "2 M"]
    """Log-mel at the person's own level and colour."""
    speaking: float
    """How surely someone speaks for the avatar, 0..1."""
    accent: float
    """0 none, about 1 a stressed syllable."""
    share: float
    """Of the mouth that the model tells now, `look_ahead_tokens` before these columns: 0 rests."""


class Hearing:
    """Listens to a stream of log-mel for a model."""

    def __init__(self, model: SpeechModel, level: float | None = None) -> None:
        """`level`: of the whole sound (`Level.decibel`), where it is known beforehand."""
        self._own, self._ahead = model.level_decibel, model.config.look_ahead_tokens
        self._level, self._voice = Level(KEPT_TOKENS), Voice(float(model.config.gate_open))
        self._colour = Colour(own_spectrum(model))
        self._start = 0.0 if self._own is None or level is None else self._own - level
        self._gain = _limited(self._start)
        self._syllables = 0.0
        self._mine: deque[bool] = deque()  # of tokens whose mouth is not told yet: the avatar speaks
        self._share = 0.0

    def token(self, columns: Float32[np.ndarray, "2 M"], listening: bool = False) -> Heard:
        """The next token; `listening` while it is someone else's."""
        decibel = power_decibel(columns)
        stands_out = self._level.stands_out(decibel)
        if stands_out and not listening:
            self._level.add(decibel)
            self._gain = self._followed()
        if self._gain:
            columns = amplified(columns, self._gain)
        if stands_out and not listening:
            self._colour.add(columns)
        speaking, accent = self._voice.token(float(columns.mean(axis=1).max()))
        self._syllables = eased(self._syllables, stands_out)
        self._move(listening, max(speaking, self._syllables) >= QUIET)
        if self._colour.gain is not None:
            columns = amplified(columns, self._colour.gain)
        return Heard(columns, 0.0 if listening else speaking, 0.0 if listening else accent, self._share)

    @property
    def coloured(self) -> bool:
        """Whether the voice heard so far has another colour than the person's."""
        return self._colour.gain is not None

    def _followed(self) -> float:
        heard = self._level.decibel
        if self._own is None or heard is None:
            return 0.0
        trust = self._level.tokens / (self._level.tokens + SURE_TOKENS)
        return _limited(self._start + trust * (self._own - heard - self._start))

    def _move(self, listening: bool, voice: bool) -> None:
        """Towards rest or away from it. The voice is the newest token's, so the mouth is there when it sounds."""
        if not self._mine:
            self._mine.extend([not listening] * self._ahead)
        self._mine.append(not listening)
        wanted, most = float(self._mine.popleft() and voice), 1 / (SHARE_SECONDS * TOKEN_RATE)
        self._share += min(max(wanted - self._share, -most), most)


def _limited(gain: float) -> float:
    beyond = max(abs(gain) - OWN_DB, 0.0)
    return math.copysign(min(beyond, LARGEST_GAIN_DB), gain)


def eased(value: float, there: bool) -> float:
    """A share 0..1 a token later: it comes fast and goes slowly."""
    return value + (there - value) / (TOKEN_RATE * (ATTACK_SECONDS if there else RELEASE_SECONDS))


def amplified(
    columns: Float32[np.ndarray, "T M"], decibel: float | Float64[np.ndarray, " M"]
) -> Float32[np.ndarray, "T M"]:
    """Log-mel of the same sound, so much louder (every band by its own, or all alike): only the sound is, not the floor
    that was added to its power."""
    power = np.maximum(np.exp(columns.astype(np.float64)) - FLOOR, 0)
    return np.log(power * 10 ** (decibel / 10) + FLOOR).astype(np.float32)


def heard(
    model: SpeechModel, columns: Float32[np.ndarray, "T M"]
) -> tuple[Float32[np.ndarray, "T2 M"], Float32[np.ndarray, "n 1"]]:
    """A whole sound as a stream hears it: columns (up to a whole token) and share of the mouth of each token."""
    ahead = model.config.look_ahead_tokens
    padded = pad_with_silence(torch.from_numpy(columns), ahead).numpy()
    hearing = Hearing(model)
    tokens = [hearing.token(c) for c in padded.reshape(-1, COLUMNS_PER_TOKEN, padded.shape[1])]
    out = np.concatenate([t.columns for t in tokens[: len(tokens) - ahead]])
    return out, np.array([[t.share] for t in tokens[ahead:]], np.float32)


def hearing_settings(model: SpeechModel) -> dict[str, float | list[float] | None]:
    """Everything a port of `Hearing` needs to know, as plain JSON; ``level`` and ``spectrum`` are null where they are
    not known."""
    own = own_spectrum(model)
    return {
        "level": model.level_decibel, "spectrum": None if own is None else [round(float(v), 6) for v in own.mean],
        "spectrum_tokens": 0.0 if own is None else own.tokens, "chance_db": CHANCE_DB,
        "own_db": OWN_DB, "largest_gain_db": LARGEST_GAIN_DB, "sure_tokens": SURE_TOKENS,
        "kept_tokens": KEPT_TOKENS, "stands_out_db": STANDS_OUT_DB, "syllable_tokens": SYLLABLE_TOKENS,
        "least_db": LEAST_DB, "below_top_db": BELOW_TOP_DB, "attack_tokens": ATTACK_SECONDS * TOKEN_RATE,
        "release_tokens": RELEASE_SECONDS * TOKEN_RATE, "quiet": QUIET,
        "share_step": 1 / (SHARE_SECONDS * TOKEN_RATE), "gate": model.config.gate_open,
        "floor_rise": Voice.FLOOR_RISE, "margin": Voice.MARGIN,
    }  # fmt: skip


class Voice:
    """Whether someone speaks, and how much a moment stands out, from loudness alone and token by token."""

    FLOOR_RISE = 0.4 / TOKEN_RATE
    """Nats per token by which the room's noise floor follows upwards."""
    MARGIN = 1.2
    """Nats above the floor from which sound counts as a voice."""

    def __init__(self, gate: float) -> None:
        self._gate, self._floor = gate, gate
        self._speaking, self._fast, self._slow = 0.0, None, 0.0
        self._accent, self._drift = 0.0, 0.0

    def token(self, loudness: float) -> tuple[float, float]:
        """Speaking 0..1 and accent (0 none, about 1 a stressed syllable) of the next 20 ms; mean log-mel."""
        self._floor = max(self._gate, min(loudness, self._floor + self.FLOOR_RISE))
        self._speaking = eased(self._speaking, loudness > self._floor + self.MARGIN)
        if self._fast is None:
            self._fast = self._slow = loudness
        self._fast += (loudness - self._fast) / (TOKEN_RATE * 0.08)
        self._slow += (loudness - self._slow) / (TOKEN_RATE * 1.5)
        wanted = min(max(self._fast - self._slow - 1.0, 0.0), 1.5) * self._speaking
        # A critically damped spring: brows have mass.
        rate, step = 9.0, 1 / TOKEN_RATE
        self._drift += step * (rate**2 * (wanted - self._accent) - 2 * rate * self._drift)
        self._accent += step * self._drift
        return self._speaking, max(self._accent, 0.0)
