"""Teaches a transformer what speech sounds like, before it meets anyone: an experiment, see docs/speech.md.

Synthesizers say hours of sentences in thirty languages, and their own phoneme times are the truth: the network learns
which sound is spoken (cross-entropy over the classes of `speech_corpus/phonemes.py`) and how a mouth would move. Its
layers and heads are written with where they come from. The package does not use them: on real voices they brought
nothing beyond what a person's own clip teaches (docs/speech.md has the numbers). The corpus is made here, on the spot,
from Debian's packages, and not kept:

    apt-get install espeak-ng flite iso-codes fortunes fortunes-de fortunes-es fortunes-it fortunes-pl fortunes-ru \
        fortunes-cs fortunes-br
    python scripts/pretrain_speech.py
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speech_corpus.corpus import FLITE_SHARE, LANGUAGES, Corpus, make_corpus
from speech_corpus.phonemes import CLASS_INDEX, CLASSES, SILENCE, shape_table

from avatar.conventions import MOUTH_BLENDSHAPES
from avatar.files import save_tensors
from avatar.speech.augment import AugmentConfig, Augmenter
from avatar.speech.model import SpeechModel, SpeechModelConfig


@dataclass
class Settings:
    """How the base is trained."""

    output: Path = Path("speech_base.safetensors")
    hours: float = 3.0
    """Of speech."""
    width: int = 128
    layers: int = 3
    context_tokens: int = 32
    steps: int = 2200
    batch: int = 16
    tokens: int = 112
    """Length of a stretch: 2.2 s."""
    rate: float = 3e-3
    weight_decay: float = 0.02
    dropout: float = 0.05
    mouth_weight: float = 0.5
    """Of the square error of the standardised mouth, beside the cross-entropy."""
    seed: int = 0


AUGMENT = AugmentConfig(tempo=0.12, vocal_tract=0.1, gain_db=12.0, equaliser_db=4.0, reverb_chance=0.4, noise_top=-1.0)
TEST_SECONDS = 600.0
_KEPT = ("stem.", "blocks.", "head.")


def main(settings: Settings) -> None:
    """Makes the corpus, trains, scores on speech from other random numbers, writes the base."""
    torch.manual_seed(settings.seed)
    started = time.perf_counter()
    lesson, exam = make_corpus(settings.hours * 3600, settings.seed), make_corpus(TEST_SECONDS, settings.seed + 1)
    print(f"corpus: {len(lesson.classes) / 50 / 3600:.2f} h in {time.perf_counter() - started:.0f} s", flush=True)
    config = replace(
        SpeechModelConfig(), members=1, outputs=len(MOUTH_BLENDSHAPES) + len(CLASSES), width=settings.width,
        layers=settings.layers, context_tokens=settings.context_tokens,
    )  # fmt: skip
    model, averaged = SpeechModel(config, settings.dropout), SpeechModel(config).eval()
    averaged.load_state_dict(model.state_dict())
    trained, kept = list(model.parameters()), list(averaged.parameters())
    print(f"parameters: {sum(p.numel() for p in trained)}", flush=True)
    optimiser = torch.optim.AdamW(trained, lr=settings.rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98))
    augment = Augmenter(AUGMENT, torch.Generator().manual_seed(settings.seed))
    spread = torch.from_numpy(lesson.mouth.std(axis=0)).clamp(min=0.02)
    mean = torch.from_numpy(lesson.mouth.mean(axis=0))
    data, rest = _tensors(lesson, mean, spread), _rest(mean, spread)
    for step in range(1, settings.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _rate_factor(step / settings.steps, step)
        loss = _loss(model, data, rest, augment, config, settings)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(kept, trained, strict=True):
                slow.lerp_(fast, 1 - min(0.995, step / (step + 9)))
        if step % 50 == 0 or step == settings.steps:
            score = _exam(averaged, _tensors(exam, mean, spread), config) if step % 250 == 0 else ""
            print(f"{step} {time.perf_counter() - started:.0f} s loss {loss.item():.3f} {score}", flush=True)
            if step % 250 == 0 or step == settings.steps:
                weights = {k: v.half() for k, v in averaged.state_dict().items() if k.startswith(_KEPT)}
                found = _exam(averaged, _tensors(exam, mean, spread), config)
                save_tensors(settings.output, weights, _provenance(settings, found))


def _tensors(corpus: Corpus, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Log-mel, and targets: standardised mouth, then one-hot classes."""
    hot = F.one_hot(torch.from_numpy(corpus.classes.astype(np.int64)), len(CLASSES)).float()
    mouth = (torch.from_numpy(corpus.mouth) - mean) / spread
    return torch.from_numpy(corpus.log_mel), torch.cat([mouth, hot], dim=1)


def _rest(mean: Tensor, spread: Tensor) -> Tensor:
    silent = CLASS_INDEX[SILENCE]
    shape = torch.from_numpy(shape_table()[1][silent]).float()
    return torch.cat([(shape - mean) / spread, F.one_hot(torch.tensor(silent), len(CLASSES)).float()])


def _rate_factor(share: float, step: int) -> float:
    return min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def _loss(
    model: SpeechModel, data: tuple[Tensor, Tensor], rest: Tensor, augment: Augmenter, config: SpeechModelConfig,
    settings: Settings,
) -> Tensor:  # fmt: skip
    ahead, mouth = config.look_ahead_tokens, len(MOUTH_BLENDSHAPES)
    x, y, w = augment(*data, torch.ones(1, len(data[1])), rest, settings.batch, settings.tokens)
    model.train()
    z, _ = model.member_step(x, model.initial_state(settings.batch))
    z, y, w = z[:, :, ahead:], y[:, :, :-ahead], w[:, :, :-ahead]
    log_p = z[..., mouth:].log_softmax(-1)
    cross = -(y[..., mouth:] * log_p).sum(-1)
    square = ((z[..., :mouth] - y[..., :mouth]) ** 2).mean(-1)
    return ((cross + settings.mouth_weight * square) * w).sum() / w.sum()


@torch.no_grad()
def _exam(model: SpeechModel, data: tuple[Tensor, Tensor], config: SpeechModelConfig) -> dict[str, float]:
    """Share of tokens whose class is told right, and mean correlation of the moving coefficients."""
    ahead, mouth, state, out = config.look_ahead_tokens, len(MOUTH_BLENDSHAPES), model.initial_state(), []
    for block in data[0][None].split(512, dim=1):
        z, state = model.member_step(block, state)
        out.append(z[0, 0])
    z, y = torch.cat(out)[ahead:], data[1][:-ahead]
    right = (z[:, mouth:].argmax(1) == y[:, mouth:].argmax(1)).float().mean()
    moving = y[:, :mouth].std(0) > 0.1
    a, b = z[:, :mouth][:, moving], y[:, :mouth][:, moving]
    a, b = a - a.mean(0), b - b.mean(0)
    r = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
    return {"class_accuracy": round(float(right), 4), "mouth_correlation": round(float(r.mean()), 4)}


def _provenance(settings: Settings, score: dict[str, float]) -> dict[str, str]:
    return {
        "source": f"speech of espeak-ng ({len(LANGUAGES)} languages) and flite (share {FLITE_SHARE}), made by "
        "scripts/pretrain_speech.py from text of Debian's fortunes and iso-codes",
        "licence": "MIT, as the package; no recording is part of it",
        "hours": f"{settings.hours:g}",
        "steps": str(settings.steps),
        **{f"exam_{name}": str(value) for name, value in score.items()},
    }


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
