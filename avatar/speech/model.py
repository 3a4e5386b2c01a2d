"""A small causal transformer from log-mel speech to this person's mouth coefficients.

Several members (each trained on a different part of the clip) live side by side in every weight and their outputs
are averaged: on minutes of one person a single network overfits, and the members' errors cancel. Beside the
transformer runs a memory: kernel regression (Nadaraya 1964; as ridge regression, Saunders et al. 1998) over a window of
coarse log-mel, whose centres are moments of the person's own clip. On minutes of speech it tells more than the network
does, and the two together more than either. The memory also tells how surely the lips shut (for a p, b or m): an
average of uncertain mouths never quite closes, so they are then pulled towards the person's own closed lips.

Time: two log-mel columns (20 ms) make one token. The network is strictly causal; looking ahead is done by delay:
after token ``k`` it says what the mouth does at token ``k - look_ahead``. Attention reaches back a fixed number of
tokens with a learned bias per distance (relative positions, as in Shaw et al. 2018 and Raffel et al. 2020), so the
rolling cache of keys and values has a fixed size and an hour sounds like its first minute.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from avatar.conventions import MOUTH_BLENDSHAPES, SAMPLE_RATE
from avatar.speech.features import COLUMN_RATE, FLOOR, N_FFT, N_MELS

COLUMNS_PER_TOKEN = 2
TOKEN_RATE = COLUMN_RATE / COLUMNS_PER_TOKEN
"""Tokens, and so predictions, per second."""
MAX_LOOK_AHEAD_SECONDS = 0.120
SILENCE = math.log(FLOOR)
"""Log-mel of digital silence."""


@dataclass(frozen=True)
class SpeechModelConfig:
    """Shape of the network and the fixed standardisation of its input. The one home of these defaults."""

    n_mels: int = N_MELS
    """Bands of the log-mel input."""
    outputs: int = len(MOUTH_BLENDSHAPES)
    """Coefficients it predicts, in the order of conventions.MOUTH_BLENDSHAPES."""
    members: int = 4
    """Networks whose outputs are averaged."""
    width: int = 64
    """Channels of a token."""
    layers: int = 2
    heads: int = 4
    stem_tokens: int = 3
    """Tokens of log-mel that the first layer sees at once (this one and those before it)."""
    memory_size: int = 0
    """Moments of the clip that the memory holds; 0 has none."""
    memory_tokens: int = 20
    """Tokens that the memory compares."""
    memory_bands: int = 32
    """Bands of the memory's coarse log-mel."""
    memory_rank: int = 96
    """Directions in which windows are compared; 0 compares all their numbers."""
    memory_sharpness: float = 0.65
    """How fast likeness fades: exp(-sharpness d^2), d in root mean squares of the clip's own windows."""
    encoder_width: int = 0
    """Numbers per token of the speech encoder (`speech.encoder`) that the memory also hears; 0 hears none."""
    context_tokens: int = 24
    """Tokens an attention layer reaches back to, itself included: 0.48 s."""
    look_ahead_tokens: int = 6
    """Tokens of sound heard before the mouth is told: 0.12 s."""
    mel_mean: float = -6.5
    """Fixed centre of the log-mel input: its mean over speech recorded at usual levels."""
    mel_std: float = 3.0
    """Fixed spread of the log-mel input."""
    gate_tokens: int = 12
    """The mouth rests when this many tokens, look-ahead included, were all silent."""
    gate_ramp_tokens: int = 7
    """Tokens over which it comes to rest and leaves it."""
    gate_closed: float = -9.0
    """Mean log-mel over the bands at and below which sound counts as silence (digital silence: -9.2)."""
    gate_open: float = -8.4
    """Mean log-mel above which it does not."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.n_mels % self.memory_bands:
            raise ValueError("width must be a multiple of heads, and n_mels of memory_bands")
        if not 0 <= self.memory_rank <= self.memory_tokens * self.memory_bands:
            raise ValueError(f"memory_rank {self.memory_rank} is more than a window has numbers")
        if not 0 <= self.look_ahead_tokens / TOKEN_RATE <= MAX_LOOK_AHEAD_SECONDS:
            raise ValueError(f"look_ahead_tokens {self.look_ahead_tokens} is more than {MAX_LOOK_AHEAD_SECONDS} s")

    @property
    def history_tokens(self) -> int:
        """Past tokens of log-mel that a stream keeps."""
        return max(self.stem_tokens, self.memory_tokens, self.gate_tokens + self.gate_ramp_tokens - 1) - 1


class MemberLinear(nn.Module):
    """A linear layer per ensemble member: (E, ..., in) -> (E, ..., out)."""

    def __init__(self, members: int, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, inputs, outputs) * (scale / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Float[Tensor, "E *rest i"]) -> Float[Tensor, "E *rest o"]:
        flat = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return flat.unflatten(1, x.shape[1:-1])


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])  # without weights: the linear layer that follows holds the scale


class Block(nn.Module):
    """Pre-norm transformer layer with windowed causal attention."""

    def __init__(self, c: SpeechModelConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.qkv = MemberLinear(c.members, c.width, 3 * c.width)
        self.out = MemberLinear(c.members, c.width, c.width, scale=0.5)
        self.up = MemberLinear(c.members, c.width, 2 * c.width)
        self.down = MemberLinear(c.members, 2 * c.width, c.width, scale=0.5)
        self.distance_bias = nn.Parameter(torch.zeros(c.members, c.heads, c.context_tokens))

    def forward(
        self,
        x: Float[Tensor, "E B n C"],
        past_keys: Float[Tensor, "E B H P d"],
        past_values: Float[Tensor, "E B H P d"],
        distance: Int64[Tensor, "n K"],
        blocked: Bool[Tensor, "n K"],
        dropout: float,
    ) -> tuple[Float[Tensor, "E B n C"], Tensor, Tensor]:
        """The layer's output, and the keys and values of past and present (E, B, H, P + n, d)."""
        q, k, v = self.qkv(_normalise(x)).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        keys, values = torch.cat([past_keys, k], dim=-2), torch.cat([past_values, v], dim=-2)
        bias = self.distance_bias[:, :, distance].masked_fill(blocked, float("-inf"))[:, None]
        scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        mixed = (scores.softmax(-1) @ values).transpose(2, 3).flatten(-2)  # (E, B, n, C)
        x = x + F.dropout(self.out(mixed), dropout, self.training)
        hidden = F.dropout(F.gelu(self.up(_normalise(x))), dropout, self.training)
        return x + F.dropout(self.down(hidden), dropout, self.training), keys, values


class Memory(nn.Module):
    """Moments of the clip, and what the mouth did there: the more alike a window sounds, the more a moment says.

    Outputs are the coefficients', and last how surely the lips shut: about 1 where they do, 0 where not.
    """

    mean: Tensor
    directions: Tensor
    centres: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, c: SpeechModelConfig) -> None:
        super().__init__()
        inputs = c.memory_tokens * c.memory_bands + c.encoder_width
        rank = c.memory_rank or inputs
        self.sharpness = c.memory_sharpness
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("directions", torch.eye(inputs, rank))
        self.register_buffer("centres", torch.zeros(c.memory_size, rank))
        self.register_buffer("weight", torch.zeros(c.memory_size, c.outputs + 1))
        self.register_buffer("bias", torch.zeros(c.outputs + 1))

    def forward(self, windows: Float[Tensor, "*B n F"]) -> Float[Tensor, "*B n D1"]:
        """Standardised outputs for windows of `coarse_windows` (and what an encoder says), and the closing."""
        return self.bias + likeness((windows - self.mean) @ self.directions, self.centres, self.sharpness) @ self.weight


def likeness(a: Float[Tensor, "*B n F"], b: Float[Tensor, "m F"], sharpness: float) -> Float[Tensor, "*B n m"]:
    """The Gaussian kernel exp(-sharpness |a - b|^2)."""
    squares = (a**2).sum(-1, keepdim=True) + (b**2).sum(-1) - 2 * a @ b.T
    return torch.exp(-sharpness * squares.clamp(min=0))


@dataclass(frozen=True)
class StreamState:
    """What a stream remembers between calls; every shape is fixed (L layers, E members, P past tokens)."""

    columns: Float[Tensor, "*B H M"]
    """Standardised log-mel columns that the first layer still sees."""
    keys: Float[Tensor, "L E B heads P d"]
    values: Float[Tensor, "L E B heads P d"]
    seen: Int64[Tensor, ""]
    """Tokens taken so far; entries of the cache from before the stream are masked by it."""


class SpeechModel(nn.Module):
    """Log-mel columns to mouth coefficients; offline `forward` and streaming `step` give the same numbers."""

    target_mean: Tensor
    target_std: Tensor
    gain: Tensor
    rest: Tensor
    low: Tensor
    high: Tensor
    closed: Tensor
    closing: Tensor
    closing_from: Tensor
    closing_to: Tensor
    level: Tensor
    spectrum: Tensor
    spectrum_tokens: Tensor

    def __init__(self, config: SpeechModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = c = config
        self.dropout = dropout
        self.stem = MemberLinear(c.members, c.stem_tokens * COLUMNS_PER_TOKEN * c.n_mels, c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        # Starts at zero: an untrained model says the person's mean mouth.
        self.head = MemberLinear(c.members, c.width, c.outputs, scale=0.0)
        self.memory = Memory(c)
        # The person: what z = 0 and z = 1 mean, how much an uncertain average is widened, the mouth in silence, and
        # the plausible range.
        self.register_buffer("target_mean", torch.zeros(c.outputs))
        self.register_buffer("target_std", torch.ones(c.outputs))
        self.register_buffer("gain", torch.ones(c.outputs))
        self.register_buffer("rest", torch.zeros(c.outputs))
        self.register_buffer("low", torch.zeros(c.outputs))
        self.register_buffer("high", torch.ones(c.outputs))
        # Lips that shut: where they are then, which way each coefficient goes to get there (0 leaves it alone), and
        # how sure the memory must be to begin and to shut them wholly.
        self.register_buffer("closed", torch.zeros(c.outputs))
        self.register_buffer("closing", torch.zeros(c.outputs))
        self.register_buffer("closing_from", torch.zeros(()))
        self.register_buffer("closing_to", torch.ones(()))
        # How loud the clip's speech is (hearing.Level, dB); exactly 0: not known, sound is taken as it comes.
        self.register_buffer("level", torch.zeros(()))
        # Its mean spectrum and of how many tokens (hearing.Spectrum); of 0: not known.
        self.register_buffer("spectrum", torch.zeros(c.n_mels))
        self.register_buffer("spectrum_tokens", torch.zeros(()))
        self.register_load_state_dict_pre_hook(_upgrade)

    def config_dict(self) -> dict[str, Any]:
        """Plain numbers from which `from_config` builds the same network; goes into a file's JSON header."""
        return asdict(self.config)

    @staticmethod
    def from_config(config: dict[str, Any]) -> SpeechModel:
        """A network of this shape, to be filled by `load_state_dict`.

        Raises:
            ValueError: unknown settings, or settings that do not fit together.
        """
        unknown = set(config) - {f.name for f in fields(SpeechModelConfig)}
        if unknown:
            raise ValueError(f"unknown speech model settings: {', '.join(sorted(unknown))}")
        return SpeechModel(SpeechModelConfig(**{"memory_rank": 0} | config)).eval()  # older files: all numbers

    @property
    def latency_seconds(self) -> float:
        """From the centre of a token's sound to the moment its mouth is known: look-ahead, token and window."""
        return self.config.look_ahead_tokens / TOKEN_RATE + 0.5 / COLUMN_RATE + N_FFT / 2 / SAMPLE_RATE

    @property
    def level_decibel(self) -> float | None:
        """How loud the speech was that it learned from; None in files of before levels were followed."""
        return float(self.level) or None

    def initial_state(self, batch: int = 1) -> StreamState:
        """A stream that has heard only silence."""
        c = self.config
        like = self.stem.weight
        cache = like.new_zeros(c.layers, c.members, batch, c.heads, c.context_tokens - 1, c.width // c.heads)
        quiet = like.new_full((batch, c.history_tokens * COLUMNS_PER_TOKEN, c.n_mels), SILENCE)
        seen = torch.zeros((), dtype=torch.int64, device=like.device)
        return StreamState(self.standardise(quiet), cache, cache.clone(), seen)

    def standardise(self, log_mel: Tensor) -> Tensor:
        """Log-mel with the fixed centre and spread of the input."""
        return (log_mel - self.config.mel_mean) / self.config.mel_std

    def member_step(
        self, log_mel: Float[Tensor, "*EB T M"], state: StreamState, encoded: Float[Tensor, "B n W"] | None = None
    ) -> tuple[Float[Tensor, "E B n Z"], StreamState]:
        """Standardised outputs (z-scores) of every member for T = 2 n new columns; with a memory, its closing last.

        Args:
            log_mel: (B, T, M), or (E, B, T, M) to give each member its own sound (training).
            encoded: as in `step`.
        """
        c = self.config
        n = log_mel.shape[-2] // COLUMNS_PER_TOKEN
        history = self._history(log_mel, state)
        tail = history[..., history.shape[-2] - state.columns.shape[-2] :, :]
        said = self.memory(joined_windows(coarse_windows(history, n, c), encoded)) if c.memory_size else None
        if history.dim() == 3:
            history = history.expand(c.members, *history.shape)
        stem = windows(history, n, c.stem_tokens * COLUMNS_PER_TOKEN, COLUMNS_PER_TOKEN)
        x = F.gelu(self.stem(stem))
        distance, blocked = self._reach(n, state.seen)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, state.keys[i], state.values[i], distance, blocked, self.dropout)
            keys.append(k[..., n:, :])
            values.append(v[..., n:, :])
        z = self.head(_normalise(x))
        z = z if said is None else F.pad(z, (0, 1)) + said
        return z, StreamState(tail, torch.stack(keys), torch.stack(values), state.seen + n)

    def _history(self, log_mel: Tensor, state: StreamState) -> Tensor:
        x = self.standardise(log_mel)
        return torch.cat([state.columns.expand(*x.shape[:-2], *state.columns.shape[-2:]), x], dim=-2)

    def _reach(self, n: int, seen: Tensor) -> tuple[Int64[Tensor, "n K"], Bool[Tensor, "n K"]]:
        """How far back each key is from each of n new tokens, and which keys are out of reach."""
        past = self.config.context_tokens - 1
        there = torch.arange(past + n, device=seen.device)[None]
        distance = past + torch.arange(n, device=seen.device)[:, None] - there
        before_the_stream = there < past - seen
        blocked = (distance < 0) | (distance > past) | before_the_stream
        return distance.clamp(0, past), blocked

    def _openness(self, log_mel: Tensor, state: StreamState) -> Float[Tensor, "B n 1"]:
        """0 where all sound around a token is silence, 1 where not, a ramp between."""
        c = self.config
        loudness = self._history(log_mel, state).mean(-1).unflatten(-1, (-1, COLUMNS_PER_TOKEN)).amax(-1)  # (B, tokens)
        level = loudness * c.mel_std + c.mel_mean
        gate = ((level - c.gate_closed) / (c.gate_open - c.gate_closed)).clamp(0, 1)
        held = F.max_pool1d(gate[:, None], c.gate_tokens, stride=1)
        ramp = F.avg_pool1d(held, c.gate_ramp_tokens, stride=1)[:, 0]
        n = log_mel.shape[-2] // COLUMNS_PER_TOKEN
        return ramp[:, ramp.shape[1] - n :, None]

    def coefficients(self, z: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Standardised outputs to coefficients within the person's plausible range."""
        return torch.clamp(self.target_mean + self.gain * self.target_std * z, self.low, self.high)

    def _shut(self, mouth: Float[Tensor, "B n D"], sure: Float[Tensor, "B n 1"]) -> Float[Tensor, "B n D"]:
        """The mouth pulled towards the person's closed lips as far as they surely shut; never opened by it."""
        share = ((sure - self.closing_from) / (self.closing_to - self.closing_from)).clamp(0, 1)
        return mouth + share * self.closing * F.relu(self.closing * (self.closed - mouth))

    def step(
        self, log_mel: Float[Tensor, "B T M"], state: StreamState, encoded: Float[Tensor, "B n W"] | None = None
    ) -> tuple[Float[Tensor, "B n D"], StreamState]:
        """The next T = 2 n columns of a stream.

        Args:
            encoded: what a speech encoder says of the n tokens that are told (not of those that are heard), for a model
                with `encoder_width`.
        Returns:
            Coefficients of n tokens, `look_ahead_tokens` before the columns' own, and the new state. The first
            `look_ahead_tokens` outputs of a stream lie before its beginning: drop them.
        """
        if log_mel.shape[-2] == 0 or log_mel.shape[-2] % COLUMNS_PER_TOKEN:
            raise ValueError(
                f"a step takes a positive multiple of {COLUMNS_PER_TOKEN} columns, not {log_mel.shape[-2]}"
            )
        if self.config.encoder_width and encoded is None:
            raise ValueError("this model also hears a speech encoder")
        z, after = self.member_step(log_mel, state, encoded)
        z = z.mean(0)
        mouth = self.coefficients(z[..., : self.config.outputs])
        if self.config.memory_size:
            mouth = self._shut(mouth, z[..., -1:])
        return self.rest + self._openness(log_mel, state) * (mouth - self.rest), after

    def forward(
        self, log_mel: Float[Tensor, "B T M"], encoded: Float[Tensor, "B n W"] | None = None
    ) -> Float[Tensor, "B n D"]:
        """Coefficients of n = ceil(T / 2) tokens; token k is at the mean time of columns 2 k and 2 k + 1.

        Sound after the end counts as silence, as when a stream is ended.

        Args:
            encoded: what a speech encoder says of each token, for a model with `encoder_width`.
        """
        ahead = self.config.look_ahead_tokens
        padded, state, out = pad_with_silence(log_mel, ahead), self.initial_state(len(log_mel)), []
        # In blocks, so that attention scores stay small for any length; the numbers do not depend on the blocks.
        count = padded.shape[-2] // COLUMNS_PER_TOKEN
        # nothing is told before the beginning
        told = None if encoded is None else F.pad(encoded, (0, 0, ahead, 0))[:, :count]
        for start in range(0, count, _BLOCK_TOKENS):
            tokens = slice(start, start + _BLOCK_TOKENS)
            block = padded[:, COLUMNS_PER_TOKEN * tokens.start : COLUMNS_PER_TOKEN * tokens.stop]
            mouth, state = self.step(block, state, None if told is None else told[:, tokens])
            out.append(mouth)
        return torch.cat(out, dim=1)[:, ahead:]


_BLOCK_TOKENS = 256


def _upgrade(model: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Files of before lips were shut hold one scale for a window and no closing, and those of before levels were
    followed no level and those of before colours were no spectrum; they say what they always said."""
    assert isinstance(model, SpeechModel)
    weights.setdefault(f"{prefix}level", model.level)
    weights.setdefault(f"{prefix}spectrum", model.spectrum)
    weights.setdefault(f"{prefix}spectrum_tokens", model.spectrum_tokens)
    scale = weights.pop(f"{prefix}memory.scale", None)
    if scale is not None:
        weights[f"{prefix}memory.directions"] = scale * torch.eye(len(model.memory.mean))
        for name in ("memory.weight", "memory.bias"):
            weights[prefix + name] = F.pad(weights[prefix + name], (0, 1))
        for name in ("closed", "closing", "closing_from", "closing_to"):
            weights[prefix + name] = getattr(model, name)


def pad_with_silence(log_mel: Float[Tensor, "*B T M"], tokens: int) -> Float[Tensor, "*B T2 M"]:
    """Appends silence up to a whole token, and `tokens` more."""
    missing = -log_mel.shape[-2] % COLUMNS_PER_TOKEN + tokens * COLUMNS_PER_TOKEN
    return F.pad(log_mel, (0, 0, 0, missing), value=SILENCE)


def windows(x: Float[Tensor, "*B T C"], n: int, length: int, stride: int) -> Float[Tensor, "*B n F"]:
    """The last `n` windows of `length` rows, `stride` apart, each flattened."""
    return x[..., x.shape[-2] - (n - 1) * stride - length :, :].unfold(-2, length, stride).flatten(-2)


def coarse_windows(history: Float[Tensor, "*B T M"], n: int, c: SpeechModelConfig) -> Float[Tensor, "*B n F"]:
    """Input of the memory: bands and columns averaged, `memory_tokens` at once; F runs over bands, then tokens."""
    coarse = history.unflatten(-1, (c.memory_bands, -1)).unflatten(-3, (-1, COLUMNS_PER_TOKEN)).mean((-1, -3))
    return windows(coarse, n, c.memory_tokens, 1)


def joined_windows(heard: Float[Tensor, "*B n F"], encoded: Float[Tensor, "*B n W"] | None) -> Float[Tensor, "*B n FW"]:
    """What the memory hears of each token: the window of `coarse_windows`, then what an encoder says."""
    return heard if encoded is None else torch.cat([heard, encoded], dim=-1)


def token_times(column_times: Float[np.ndarray, " T"]) -> Float[np.ndarray, " n"]:
    """Times of the ceil(T / 2) tokens that `forward` gives for T columns, in the columns' unit (seconds)."""
    first = column_times[0] + (COLUMNS_PER_TOKEN - 1) / 2 / COLUMN_RATE
    return first + np.arange(-(-len(column_times) // COLUMNS_PER_TOKEN)) / TOKEN_RATE
