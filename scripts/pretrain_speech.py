"""Teaches a convolutional network what speech sounds like, before it meets anyone: an experiment, see docs/speech.md.

Synthesizers say hours of sentences in thirty languages, and their own phoneme times are the truth; to these comes an
hour and a half of one real speaker with phone labels. The network learns which sound is spoken (cross-entropy over the
classes of `speech_corpus/phonemes.py`) and how a mouth would move, from speech varied as far as it can be on the mel
axis. The package does not use it, docs/speech.md says why. The corpus is made here, on the spot, from Debian's
packages:

    apt-get install espeak-ng flite iso-codes fortunes fortunes-de fortunes-es fortunes-it fortunes-pl fortunes-ru \
        fortunes-cs fortunes-br festival festival-czech festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts \
        festvox-italp16k festvox-itapc16k festvox-suopuhe-lj festvox-suopuhe-mv festvox-czech-dita festvox-czech-krb \
        festvox-czech-machac festvox-czech-ph festvox-ru festvox-ca-ona-hts
    python scripts/pretrain_speech.py
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speech_corpus.corpus import SOURCES, Corpus, load_or_make
from speech_corpus.network import LEAD_TOKENS, Prior, closed_odds, prior_weights
from speech_corpus.phonemes import CLASS_INDEX, CLASSES, CLOSED, SILENCE, shape_table

from avatar.conventions import MOUTH_BLENDSHAPES
from avatar.files import save_tensors
from avatar.speech.augment import AugmentConfig, Augmenter
from avatar.speech.model import COLUMNS_PER_TOKEN, SpeechModelConfig, windows
from avatar.speech.model import SILENCE as DIGITAL_SILENCE

LOOK_AHEAD = SpeechModelConfig().look_ahead_tokens - LEAD_TOKENS
"""Tokens heard after the one that is told: a mouth has its shape LEAD_TOKENS before its sound is heard."""
MOUTH = len(MOUTH_BLENDSHAPES)


@dataclass
class Settings:
    """How the prior is trained."""

    output: Path = Path("speech_prior.safetensors")
    corpus: Path | None = None
    """Folder in which the corpus is kept between runs; None makes it anew."""
    hours: float = 4.0
    """Of synthetic speech."""
    minutes: float = 45.0
    """How long to train; the learning rate falls to zero over them."""
    start: Path | None = None
    """A prior to go on from."""
    width: int = 192
    batch: int = 24
    tokens: int = 160
    """Length of a stretch: 3.2 s."""
    rate: float = 2e-3
    weight_decay: float = 0.02
    dropout: float = 0.05
    mouth_weight: float = 0.5
    """Of the square error of the standardised mouth, beside the cross-entropy."""
    closed_weight: float = 0.5
    """Of telling p, b and m from the rest."""
    smoothing: float = 0.05
    """Share of every class's truth that is given to all the others: labels are late or early by a token."""
    save_every: float = 3.0
    """Minutes between two files and scores."""
    seed: int = 0


AUGMENT = AugmentConfig(
    tempo=0.2, vocal_tract=0.16, gain_db=14.0, equaliser_db=5.0, reverb_chance=0.5, reverb_columns=10.0, noise_top=-0.5,
    shift_columns=0.0, masked_bands=8.0, masked_columns=8.0,
)  # fmt: skip
WARM_UP_STEPS = 200
SKIPPED_TOKENS = 12
"""At the beginning of a stretch, not scored: no past to hear."""
BABBLE_CHANCE, BABBLE_NATS = 0.3, (-6.0, -1.0)
"""Another stretch under this one, and how much weaker (log power)."""
CONTRAST = (0.7, 1.2)
"""Factor of the log-mel's distance from its mean: rooms and microphones flatten it, synthesizers sharpen it."""
BLUR = 0.7
"""Largest share of a band that comes from its neighbours: formants of synthesizers are too narrow."""


def main(settings: Settings) -> None:
    """Makes the corpus, trains, scores on speech from other random numbers, writes the prior."""
    torch.manual_seed(settings.seed)
    lesson, exam = load_or_make(settings.corpus, settings.hours * 3600, settings.seed)
    print(f"corpus: {len(lesson.classes) / 50 / 3600:.2f} h, exam {len(exam.classes) / 50 / 60:.1f} min", flush=True)
    inputs = SpeechModelConfig().stem_tokens * COLUMNS_PER_TOKEN * lesson.log_mel.shape[1]
    model, averaged = Prior(inputs, settings.width, settings.dropout), Prior(inputs, settings.width).eval()
    if settings.start is not None:
        model.load_state_dict(prior_weights(settings.start))
    averaged.load_state_dict(model.state_dict())
    trained, kept = list(model.parameters()), list(averaged.parameters())
    print(f"parameters: {sum(p.numel() for p in trained)}", flush=True)
    optimiser = torch.optim.AdamW(
        trained, lr=settings.rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98), fused=True
    )
    vary = _Variation(settings)
    spread = torch.from_numpy(lesson.mouth.astype(np.float32).std(axis=0)).clamp(min=0.02)
    mean = torch.from_numpy(lesson.mouth.astype(np.float32).mean(axis=0))
    data, rest = _tensors(lesson, mean, spread), _rest(mean, spread)
    exam_data = _tensors(exam, mean, spread)
    started = saved = time.monotonic()
    step, share = 0, 0.0
    while share < 1:
        step += 1
        share = (time.monotonic() - started) / 60 / settings.minutes
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _rate_factor(min(share, 1.0), step)
        loss = _loss(model, *vary(data, rest), settings)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(kept, trained, strict=True):
                slow.lerp_(fast, 1 - min(0.997, step / (step + 9)))
        if (time.monotonic() - saved) / 60 >= settings.save_every or share >= 1:
            saved = time.monotonic()
            found = _exam(averaged, exam_data)
            print(f"{step} {(saved - started) / 60:.1f} min loss {loss.item():.3f} {found}", flush=True)
            weights = {k: v.half() for k, v in averaged.state_dict().items()}
            save_tensors(settings.output, weights, _provenance(lesson, step, settings, found))


def _tensors(corpus: Corpus, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Log-mel, and targets: standardised mouth, then one-hot classes."""
    hot = F.one_hot(torch.from_numpy(corpus.classes.astype(np.int64)), len(CLASSES)).float()
    mouth = (torch.from_numpy(corpus.mouth.astype(np.float32)) - mean) / spread
    return torch.from_numpy(corpus.log_mel.astype(np.float32)), torch.cat([mouth, hot], dim=1)


def _rest(mean: Tensor, spread: Tensor) -> Tensor:
    silent = CLASS_INDEX[SILENCE]
    shape = torch.from_numpy(shape_table()[1][silent]).float()
    return torch.cat([(shape - mean) / spread, F.one_hot(torch.tensor(silent), len(CLASSES)).float()])


def _rate_factor(share: float, step: int) -> float:
    return min(1.0, step / WARM_UP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class _Variation:
    """Draws stretches of the corpus through other voices, rooms and microphones."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = torch.Generator().manual_seed(settings.seed)
        self._augment = Augmenter(AUGMENT, self._random)

    def __call__(self, data: tuple[Tensor, Tensor], rest: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel (B, 2 n, M) and targets (B, n, D + classes)."""
        s = self._settings
        x, y, _ = self._augment(*data, torch.ones(1, len(data[1])), rest, s.batch, s.tokens)
        x = x[0]
        blur, contrast = self._uniform(0, BLUR), self._uniform(*CONTRAST)
        near = F.pad(x, (1, 1), mode="replicate")
        x = x + blur * ((near[..., :-2] + near[..., 2:]) / 2 - x)
        mean = x.mean(dim=(1, 2), keepdim=True)
        x = mean + contrast * (x - mean)
        on = (torch.rand((s.batch, 1, 1), generator=self._random) < BABBLE_CHANCE).float()
        weaker = self._uniform(*BABBLE_NATS) + torch.log(on + 1e-9)
        return torch.logaddexp(x, x.roll(1, dims=0) + weaker).clamp(min=DIGITAL_SILENCE), y[0]

    def _uniform(self, low: float, high: float) -> Tensor:
        return torch.rand((self._settings.batch, 1, 1), generator=self._random) * (high - low) + low


def _heard(log_mel: Tensor) -> Tensor:
    """The network's input for every token of (B, 2 n, M), with silence before the first."""
    c = SpeechModelConfig()
    x = (log_mel - c.mel_mean) / c.mel_std
    x = torch.cat([x[:, :1].expand(-1, (c.stem_tokens - 1) * COLUMNS_PER_TOKEN, -1), x], dim=1)
    return windows(x, log_mel.shape[1] // COLUMNS_PER_TOKEN, c.stem_tokens * COLUMNS_PER_TOKEN, COLUMNS_PER_TOKEN)


def _loss(model: Prior, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    model.train()
    said, _ = model(_heard(x), model.initial_past(len(x)))
    said, y = said[:, SKIPPED_TOKENS + LOOK_AHEAD :], y[:, SKIPPED_TOKENS:-LOOK_AHEAD]
    truth = y[..., MOUTH:] * (1 - settings.smoothing) + settings.smoothing / len(CLASSES)
    log_p = said[..., MOUTH:].log_softmax(-1)
    cross = -(truth * log_p).sum(-1).mean()
    square = ((said[..., :MOUTH] - y[..., :MOUTH]) ** 2).mean()
    closed = F.binary_cross_entropy_with_logits(
        closed_odds(said)[..., 0], y[..., MOUTH:][..., CLOSED].sum(-1).clamp(0, 1)
    )
    return cross + settings.mouth_weight * square + settings.closed_weight * closed


@torch.no_grad()
def _exam(model: Prior, data: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Share of tokens whose class is told right, of p, b, m found, and mean correlation of the moving coefficients."""
    past, out = model.initial_past(1), []
    heard = _heard(data[0][None])
    for block in heard.split(2048, dim=1):
        said, past = model(block, past)
        out.append(said[0])
    z, y = torch.cat(out)[LOOK_AHEAD:], data[1][:-LOOK_AHEAD]
    told, true = z[:, MOUTH:].argmax(1), y[:, MOUTH:].argmax(1)
    shut = torch.isin(true, torch.tensor(CLOSED))
    moving = y[:, :MOUTH].std(0) > 0.1
    a, b = z[:, :MOUTH][:, moving], y[:, :MOUTH][:, moving]
    a, b = a - a.mean(0), b - b.mean(0)
    r = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
    found = {"class_accuracy": (told == true).float().mean(), "closures_found": torch.isin(told, torch.tensor(CLOSED))[
        shut].float().mean(), "mouth_correlation": r.mean()}  # fmt: skip
    return {name: round(float(value), 4) for name, value in found.items()}


def _provenance(lesson: Corpus, steps: int, settings: Settings, score: dict[str, float]) -> dict[str, str]:
    return {
        "source": f"{SOURCES}, made by scripts/pretrain_speech.py from text of Debian's fortunes and iso-codes",
        "licence": "MIT, as the package; no recording is part of it",
        "hours": f"{len(lesson.classes) / 50 / 3600:.2f}",
        "steps": str(steps),
        "minutes": f"{settings.minutes:g}",
        **{f"exam_{name}": str(value) for name, value in score.items()},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Settings, description=__doc__))
