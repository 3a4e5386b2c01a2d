"""What the sounds of speech are in any voice: a causal convolutional network over log-mel.

A stack of dilated convolutions over tokens (a time delay network, Waibel et al. 1989; dilated and residual as in
van den Oord et al. 2016). Each layer keeps the few tokens it looks back to, so a stream and a file give the same
numbers. `scripts/pretrain_speech.py` trains it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avatar.conventions import MOUTH_BLENDSHAPES

from .phonemes import CLASSES, CLOSED

LEAD_TOKENS = 2
"""Lips and jaw have a sound's shape about 40 ms before it is heard: on three real clips the network's p, b and m fit
the closed lips best when they are moved by 20 to 60 ms."""
DILATIONS = (1, 1, 2, 2, 3, 4, 4)
"""Tokens between the three taps of each layer; with the window of the input they reach back 0.7 s."""
PAST_TOKENS = 2 * sum(DILATIONS)
"""What all layers together keep."""
MOUTH = len(MOUTH_BLENDSHAPES)
LARGEST_ODDS = 6.0
"""Log odds are kept within this on either side: nothing is surer."""


class Prior(nn.Module):
    """Windows of log-mel to hidden features, strictly causal."""

    def __init__(self, inputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.stem = nn.Linear(inputs, width)
        self.taps = nn.ModuleList(nn.Linear(3 * width, width) for _ in DILATIONS)
        self.mixes = nn.ModuleList(nn.Linear(width, width) for _ in DILATIONS)
        self.head = nn.Linear(width, MOUTH + len(CLASSES))
        with torch.no_grad():  # starts near the identity
            for layer in self.mixes:
                for value in layer.parameters():
                    value.mul_(0.5)

    def initial_past(self, batch: int) -> Float[Tensor, "B P C"]:
        """What the layers remember before the first token: nothing."""
        return self.stem.weight.new_zeros(batch, PAST_TOKENS, self.width)

    def forward(
        self, windows: Float[Tensor, "B n F"], past: Float[Tensor, "B P C"]
    ) -> tuple[Float[Tensor, "B n Z"], Float[Tensor, "B P C"]]:
        """A standardised mouth and a score of each sound for n tokens, and what the layers remember then.

        After token k they speak of the sound LEAD_TOKENS after the one that `SpeechModelConfig.look_ahead_tokens` is
        about, and so of the mouth of that one.
        """
        n, x, kept, begin = windows.shape[1], F.gelu(self.stem(windows)), [], 0
        for dilation, taps, mix in zip(DILATIONS, self.taps, self.mixes, strict=True):
            heard = torch.cat([past[:, begin : begin + 2 * dilation], _normalise(x)], dim=1)
            begin += 2 * dilation
            kept.append(heard[:, n:])
            three = torch.cat([heard[:, i * dilation : i * dilation + n] for i in range(3)], dim=-1)
            x = x + mix(F.dropout(F.gelu(taps(three)), self.dropout, self.training))
        return self.head(_normalise(x)), torch.cat(kept, dim=1)


def closed_odds(said: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B 1"]:
    """Log odds that the sound is p, b or m, from the outputs of `Prior`."""
    scores = said[..., MOUTH:]
    shut = scores[..., CLOSED[0] : CLOSED[-1] + 1].logsumexp(-1, keepdim=True)
    others = torch.cat([scores[..., : CLOSED[0]], scores[..., CLOSED[-1] + 1 :]], dim=-1)
    return (shut - others.logsumexp(-1, keepdim=True)).clamp(-LARGEST_ODDS, LARGEST_ODDS)


def prior_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a `Prior` that were learned, as float32."""
    from safetensors.torch import load_file

    return {name: value.float() for name, value in load_file(path).items()}


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
