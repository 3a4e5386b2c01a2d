"""Variations of a recording, made on its log-mel: the same words through other microphones, rooms, voices and tempos.

Minutes of speech hold one voice in one room; a model of them must not depend on either. Everything here acts on the
mel power, so a thousand variations cost no transform: tempo and vocal tract length (Jaitly and Hinton 2013) by
resampling the spectrogram, gain and equaliser as factors, reverberation as a decaying sum, noise as added power, and
masks (Park et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avatar.speech.features import COLUMN_RATE, FLOOR
from avatar.speech.model import COLUMNS_PER_TOKEN, SILENCE

_NATS_PER_DB = math.log(10) / 10


@dataclass(frozen=True)
class AugmentConfig:
    """How far variations go. Ranges are drawn uniformly unless said otherwise."""

    tempo: float = 0.1
    """Largest log ratio of speeds; the mouth's targets are stretched with it."""
    shift_columns: float = 1.0
    """Largest shift of sound against mouth, columns (10 ms)."""
    vocal_tract: float = 0.08
    """Largest log ratio by which the mel axis is stretched."""
    gain_db: float = 10.0
    equaliser_db: float = 3.0
    """Standard deviation of each of four cosines over the mel axis."""
    reverb_chance: float = 0.3
    reverb_columns: float = 6.0
    """Longest time constant."""
    reverb_level: float = 0.5
    noise_chance: float = 0.6
    noise_top: float = -2.0
    """Loudest noise, log-mel power; the quietest is silence."""
    masked_bands: float = 12.0
    masked_columns: float = 10.0
    """Largest widths of the two masks along each axis."""
    pause_chance: float = 0.2
    """Variations in which a stretch is silenced and the mouth rests."""
    pause_seconds: float = 0.8


class Augmenter:
    """Draws variations of a clip's stretches, one batch per ensemble member, from its own random numbers."""

    def __init__(self, config: AugmentConfig, generator: torch.Generator) -> None:
        self.config = config
        self._generator = generator

    def _uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=self._generator) * (high - low) + low

    def _chance(self, shape: tuple[int, ...], chance: float) -> Tensor:
        return (torch.rand(shape, generator=self._generator) < chance).float()

    def __call__(
        self,
        log_mel: Float[Tensor, "T M"],
        targets: Float[Tensor, "n D"],
        weights: Float[Tensor, "E n"],
        rest: Float[Tensor, " D"],
        batch: int,
        tokens: int,
    ) -> tuple[Float[Tensor, "E B T2 M"], Float[Tensor, "E B tokens D"], Float[Tensor, "E B tokens"]]:
        """Log-mel, targets and weights of `batch` random stretches of `tokens` tokens per member.

        Args:
            weights: 1 where a member may learn from a token, 0 where not.
            rest: target while the sound is silenced.
        """
        c, shape = self.config, (weights.shape[0], batch)
        start = self._uniform(shape, 0.0, float(max(1, len(targets) - tokens)))[..., None]
        tempo = torch.exp(self._uniform(shape, -c.tempo, c.tempo))[..., None]
        token = start + torch.arange(tokens) * tempo
        column = start * COLUMNS_PER_TOKEN + torch.arange(tokens * COLUMNS_PER_TOKEN) * tempo + (tempo - 1) / 2
        column = column + self._uniform(shape, -c.shift_columns, c.shift_columns)[..., None]
        power = self._stretch(log_mel, column)
        power = self._reverb(self._colour(power))
        y, w = _sample_targets(targets, weights, token)
        power, y = self._pause(power, y, rest)
        return self._mask(torch.log(self._noise(power) + FLOOR)), y, w

    def _stretch(self, log_mel: Float[Tensor, "T M"], column: Float[Tensor, "E B T2"]) -> Float[Tensor, "E B T2 M"]:
        """Mel power at fractional columns, with the mel axis stretched."""
        (length, bands), c = log_mel.shape, self.config
        ratio = torch.exp(self._uniform(tuple(column.shape[:2]), -c.vocal_tract, c.vocal_tract))
        column = column.clamp(0, length - 1)
        below = column.floor().clamp(max=length - 2).long()
        share = (column - below)[..., None]
        rows = log_mel[below] * (1 - share) + log_mel[below + 1] * share  # (E, B, T2, M)
        # Band j of the variation lies at j * ratio of the recording: a tent around it, the last band beyond the end.
        at = (torch.arange(bands) * ratio[..., None]).clamp(max=bands - 1)
        tents = (1 - (at[..., None, :] - torch.arange(bands)[:, None]).abs()).clamp(min=0)  # (E, B, M, M)
        return ((rows @ tents).exp() - FLOOR).clamp(min=0)

    def _colour(self, power: Float[Tensor, "E B T M"]) -> Float[Tensor, "E B T M"]:
        c, shape = self.config, tuple(power.shape[:2])
        gain = self._uniform(shape, -c.gain_db, c.gain_db)[..., None]
        amplitudes = torch.randn((*shape, EQUALISER_SHAPES), generator=self._generator) * c.equaliser_db
        return power * torch.exp((gain + amplitudes @ equaliser_shapes(power.shape[-1])) * _NATS_PER_DB)[:, :, None]

    def _reverb(self, power: Float[Tensor, "E B T M"]) -> Float[Tensor, "E B T M"]:
        c, (members, batch) = self.config, power.shape[:2]
        length = math.ceil(4 * c.reverb_columns)
        decay = self._uniform((members * batch, 1), 0.5, c.reverb_columns)
        level = self._uniform((members * batch, 1), 0.0, c.reverb_level)
        level = level * self._chance((members * batch, 1), c.reverb_chance)
        kernel = torch.exp(-torch.arange(length) / decay) * level
        kernel = torch.cat([torch.ones(len(kernel), 1), kernel[:, 1:]], dim=1)
        flat = F.pad(power.flatten(0, 1).permute(2, 0, 1), (length - 1, 0))  # (M, E B, T)
        wet = F.conv1d(flat, kernel.flip(1)[:, None], groups=members * batch)
        return wet.permute(1, 2, 0).unflatten(0, (members, batch))

    def _noise(self, power: Float[Tensor, "E B T M"]) -> Float[Tensor, "E B T M"]:
        c, shape = self.config, tuple(power.shape[:2])
        level = self._uniform(shape, SILENCE, c.noise_top)[..., None]
        tilt = self._uniform(shape, -3.0, 1.0)[..., None] * torch.linspace(0, 1, power.shape[-1])
        # The power of one transform bin of noise is exponentially distributed; a band averages a few.
        grain = -torch.log(torch.rand(power.shape, generator=self._generator).clamp(min=1e-4))
        grain = 0.5 + 0.5 * grain
        on = self._chance(shape, c.noise_chance)[..., None]
        return power + (torch.exp(level + tilt) * on)[:, :, None] * grain

    def _pause(self, power: Tensor, y: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Silences a stretch in some variations; the mouth goes to rest and returns over a tenth of a second."""
        c, shape, tokens = self.config, tuple(power.shape[:2]), y.shape[2]
        rate = COLUMN_RATE / COLUMNS_PER_TOKEN
        length = self._uniform(shape, 0.3, c.pause_seconds)[..., None] * rate
        begin = self._uniform(shape, 0.0, 1.0)[..., None] * tokens - length / 2
        on = self._chance(shape, c.pause_chance)[..., None]

        def inside(steps: Tensor, ramp: float) -> Tensor:
            return on * torch.minimum(steps - begin, begin + length - steps).div(ramp).clamp(0, 1)

        silent = inside((torch.arange(power.shape[2]) + 0.5) / COLUMNS_PER_TOKEN, 1.0)[..., None]
        resting = inside(torch.arange(tokens) + 0.5, 0.1 * rate)[..., None]
        return power * (1 - silent), y + resting * (rest - y)

    def _mask(self, x: Float[Tensor, "E B T M"]) -> Float[Tensor, "E B T M"]:
        for axis, widest in ((3, self.config.masked_bands), (2, self.config.masked_columns)):
            for _ in range(2):
                size, shape = x.shape[axis], tuple(x.shape[:2])
                width = self._uniform(shape, 0.0, min(widest, size / 4))[..., None]
                begin = self._uniform(shape, 0.0, 1.0)[..., None] * (size - width)
                index = torch.arange(size)
                hidden = (index >= begin) & (index < begin + width)
                x = x.masked_fill(hidden[:, :, None, :] if axis == 3 else hidden[..., None], SILENCE)
        return x


EQUALISER_SHAPES = 4


def equaliser_shapes(bands: int) -> Float[Tensor, "4 bands"]:
    """The first cosines over the mel axis: what microphones and rooms do to a spectrum, coarsely."""
    return torch.cos(torch.arange(EQUALISER_SHAPES)[:, None] * torch.linspace(0, math.pi, bands))


def _sample_targets(targets: Tensor, weights: Tensor, token: Float[Tensor, "E B n"]) -> tuple[Tensor, Tensor]:
    last = len(targets) - 1
    below = token.floor().clamp(0, last - 1).long()
    fraction = (token - below).clamp(0, 1)[..., None]
    y = targets[below] * (1 - fraction) + targets[below + 1] * fraction
    nearest = token.round().clamp(0, last).long()
    w = torch.gather(weights[:, None].expand(-1, token.shape[1], -1), 2, nearest)
    return y, w * ((token >= 0) & (token <= last))
