"""What speech sounds like, learned before anyone is met: a causal convolutional network over log-mel.

A stack of dilated convolutions over tokens (a time delay network, Waibel et al. 1989; dilated and residual as in
van den Oord et al. 2016). Each layer keeps the few tokens it looks back to, so a stream and a file give the same
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LEAD_TOKENS = 2
"""Lips and jaw have a sound's shape about 40 ms before it is heard: on three real clips the network's p, b and m fit
the closed lips best when they are moved by 20 to 60 ms."""


@dataclass(frozen=True)
class PriorConfig:
    """Shape of the network."""

    inputs: int = 384
    """Numbers of one window of standardised log-mel."""
    width: int = 192
    dilations: tuple[int, ...] = (1, 1, 2, 2, 3, 4, 4)
    """Tokens between a layer's three taps; with the window of the input they reach back 0.7 s."""
    outputs: int = 70

    @property
    def past_tokens(self) -> int:
        """Tokens that all layers together keep."""
        return 2 * sum(self.dilations)


class Prior(nn.Module):
    """Windows of log-mel to hidden features, strictly causal."""

    def __init__(self, config: PriorConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = c = config
        self.dropout = dropout
        self.stem = nn.Linear(c.inputs, c.width)
        self.taps = nn.ModuleList(nn.Linear(3 * c.width, c.width) for _ in c.dilations)
        self.mixes = nn.ModuleList(nn.Linear(c.width, c.width) for _ in c.dilations)
        self.head = nn.Linear(c.width, c.outputs)
        with torch.no_grad():  # starts near the identity
            for layer in self.mixes:
                for value in layer.parameters():
                    value.mul_(0.5)

    def initial_past(self, batch: int) -> Float[Tensor, "B P C"]:
        """What the layers remember before the first token: nothing."""
        return self.stem.weight.new_zeros(batch, self.config.past_tokens, self.config.width)

    def forward(
        self, windows: Float[Tensor, "B n F"], past: Float[Tensor, "B P C"]
    ) -> tuple[Float[Tensor, "B n C"], Float[Tensor, "B P C"]]:
        """Normalised features of the last layer for n tokens, and what the layers remember then."""
        n, x, kept, begin = windows.shape[1], F.gelu(self.stem(windows)), [], 0
        for dilation, taps, mix in zip(self.config.dilations, self.taps, self.mixes, strict=True):
            heard = torch.cat([past[:, begin : begin + 2 * dilation], _normalise(x)], dim=1)
            begin += 2 * dilation
            kept.append(heard[:, n:])
            three = torch.cat([heard[:, i * dilation : i * dilation + n] for i in range(3)], dim=-1)
            x = x + mix(F.dropout(F.gelu(taps(three)), self.dropout, self.training))
        return _normalise(x), torch.cat(kept, dim=1)


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
