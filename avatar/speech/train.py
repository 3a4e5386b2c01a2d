"""Teaches a speech model one person's mouth from one clip.

Each member of the ensemble leaves out its own part of the training clip. What the members say of the parts they left
out decides when to stop, how much of the linear path to use and how far the average must be widened to keep the
person's lip amplitude. The clip's held-out end is used for none of this, only for the scores.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar.errors import UserError
from avatar.progress import SILENT, Reporter
from avatar.speech.augment import AugmentConfig, Augmenter, equaliser_shapes
from avatar.speech.model import (
    COLUMNS_PER_TOKEN,
    TOKEN_RATE,
    SpeechModel,
    SpeechModelConfig,
    coarse_windows,
    pad_with_silence,
    token_times,
)
from avatar.speech.scores import correlation, held_out_scores
from avatar.speech.targets import JAW, SpeechTargets, speech_targets
from avatar.types import SpeechFeatures, Track

STEPS_AT_LEAST, STEPS_PER_SECOND, STEPS_AT_MOST = 200, 12, 600
MINIMUM_SECONDS = 1.5
"""Of speech with a face to learn from."""


@dataclass(frozen=True)
class SpeechTrainConfig:
    """How the speech model is trained. The one home of these defaults."""

    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    steps: int | None = None
    """None: STEPS_AT_LEAST and STEPS_PER_SECOND of training clip, at most STEPS_AT_MOST."""
    batch: int = 8
    """Stretches per member and step."""
    stretch_tokens: int = 96
    """Length of a stretch: 1.9 s."""
    rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    velocity_weight: float = 0.3
    """Of the error of the change over two tokens."""
    average: float = 0.98
    """Decay of the running average of the weights, which is what is kept."""
    score_every: int = 50
    margin_tokens: int = 10
    """Around a left-out part, not learned from either: what the part's own sound says of its neighbours."""
    ridges: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0)
    """Penalties of the linear path that are tried, in tokens."""
    linear_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    """Shares of the linear path that are tried."""
    tolerance: float = 0.02
    """The last state that scores within this of the best is kept, with the least of the linear path: the score is no
    surer than that, and the average of several networks stands more training than each of them shows (Sollich and
    Krogh 1996)."""
    largest_gain: float = 4.0
    trusted_correlation: float = 0.3
    """A coefficient predicted worse than this gets a proportionally smaller spread: noise should not move the mouth."""


@dataclass
class _Lesson:
    """What is learned from, up to the held-out part."""

    log_mel: Float[Tensor, "T M"]
    targets: SpeechTargets
    weights: Float[Tensor, "E n"]
    left_out: Bool[Tensor, "E n"]


@dataclass
class _Snapshot:
    """A state of training and what it scores on the left-out parts."""

    step: int
    share: float
    score: float
    weights: dict[str, Tensor]


def train_speech(
    features: SpeechFeatures,
    track: Track,
    config: SpeechTrainConfig | None = None,
    reporter: Reporter = SILENT,
    seed: int = 0,
    held_out_start: float = math.inf,
) -> tuple[SpeechModel, dict[str, Any]]:
    """Trains on sound and frames before `held_out_start` (seconds) and scores on the rest.

    Returns:
        The model in evaluation mode, and scores: ``jaw_correlation``, ``mouth_correlation`` (mean over the active
        coefficients), ``lip_spread_ratio`` (jawOpen, predicted over true), ``mae``, the same of the baselines under
        ``energy``, ``nearest`` and ``mean_face``, per-coefficient ``correlations``; and ``validation_*`` of the
        left-out parts. Held-out scores are missing where nothing is held out.

    Raises:
        UserError: less than MINIMUM_SECONDS of speech with a face.
    """
    config = config or SpeechTrainConfig()
    lesson = _lesson(features, track, config, held_out_start)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.manual_seed(seed)
        linear = _fit_linear(lesson, config)
        snapshots = _train(lesson, linear, config, reporter, seed)
        best = max(s.score for s in snapshots)
        good_enough = [s for s in snapshots if s.score >= best - config.tolerance]
        chosen = max(good_enough, key=lambda s: (s.step, -s.share))
        model, validation = _finished(lesson, linear, chosen, config)
    scores: dict[str, Any] = {"steps": chosen.step, "linear_share": chosen.share, **validation}
    scores |= held_out_scores(model, features, track, held_out_start)
    reporter.say(_summary(scores))
    return model, scores


def _summary(scores: dict[str, Any]) -> str:
    if "jaw_correlation" in scores:
        where, jaw, mouth = "held-out part", scores["jaw_correlation"], scores["mouth_correlation"]
    else:
        where, jaw, mouth = "left-out parts", scores["validation_jaw"], scores["validation_mouth"]
    return f"speech model: correlation with the true mouth on the {where}: jaw {jaw:.2f}, mean {mouth:.2f}"


# --- preparation ---


def _lesson(features: SpeechFeatures, track: Track, config: SpeechTrainConfig, held_out_start: float) -> _Lesson:
    end = min(held_out_start, float(track.times[-1]) + 1e-6)
    count = int((features.times < end).sum()) // COLUMNS_PER_TOKEN * COLUMNS_PER_TOKEN
    inside = np.flatnonzero(track.valid & (track.times < end))
    if count < MINIMUM_SECONDS * TOKEN_RATE * COLUMNS_PER_TOKEN or len(inside) < 2:
        raise UserError(f"The clip has less than {MINIMUM_SECONDS} s of sound with a face to learn speech from.")
    times = token_times(features.times[:count])
    targets = speech_targets(_until(track, end), times)
    known = targets.known & (times >= track.times[inside[0]])
    if known.sum() < MINIMUM_SECONDS * TOKEN_RATE:
        raise UserError(f"The clip has less than {MINIMUM_SECONDS} s of sound with a face to learn speech from.")
    weights, left_out = _folds(known, config)
    return _Lesson(torch.from_numpy(features.log_mel[:count]), targets, weights, left_out)


def _until(track: Track, end: float) -> Track:
    return replace(track, valid=track.valid & (track.times < end))


def _folds(known: Bool[np.ndarray, " n"], config: SpeechTrainConfig) -> tuple[Tensor, Tensor]:
    """Per member, what it learns from (float 0/1) and what it leaves out (bool): consecutive parts of the clip."""
    members, n = config.model.members, len(known)
    fold = np.full(n, -1)
    fold[known] = np.arange(known.sum()) * members // known.sum()
    left_out = fold[None] == np.arange(members)[:, None]
    if members == 1:  # a single network leaves out the last fifth
        left_out[0] = np.cumsum(known) > 0.8 * known.sum()
    window = np.ones(2 * config.margin_tokens + 1)
    near = np.stack([np.convolve(row, window, mode="same") > 0 for row in left_out])
    return torch.from_numpy((known[None] & ~near).astype(np.float32)), torch.from_numpy(left_out & known[None])


# --- the linear path ---


def _linear_inputs(log_mel: Tensor, config: SpeechModelConfig) -> Float[Tensor, "n F"]:
    """What the linear path sees when it speaks of each token."""
    probe = SpeechModel(replace(config, members=1, width=config.heads))
    padded = probe.standardise(pad_with_silence(log_mel, config.look_ahead_tokens))
    history = torch.cat([probe.initial_state().columns[0], padded])
    n = len(log_mel) // COLUMNS_PER_TOKEN
    return coarse_windows(history, n + config.look_ahead_tokens, config)[config.look_ahead_tokens :]


def _colour_penalty(config: SpeechTrainConfig) -> Float[Tensor, "F F"]:
    """Expected square of what gain and equaliser add to the linear inputs, the augmentation in closed form."""
    c, augment = config.model, config.augment
    shapes = equaliser_shapes(c.linear_bands).double()
    spread = torch.full((len(shapes),), augment.equaliser_db, dtype=torch.float64)
    spread[0] = math.hypot(augment.equaliser_db, augment.gain_db / math.sqrt(3))  # uniform: half width over sqrt 3
    directions = shapes * (spread * math.log(10) / 10 / c.mel_std)[:, None]
    per_input = directions.repeat(1, c.linear_tokens)  # inputs run over bands, then tokens
    return per_input.T @ per_input


def _fit_linear(lesson: _Lesson, config: SpeechTrainConfig) -> tuple[Float[Tensor, "E F Z"], Float[Tensor, "E Z"]]:
    """Ridge regression per member, with the penalty that does best on the left-out parts."""
    x = _linear_inputs(lesson.log_mel, config.model).double()
    y, colour = lesson.targets.z.double(), _colour_penalty(config)
    fits = []
    for ridge in config.ridges:
        weights, biases = [], []
        for w in lesson.weights.double():
            mean_x, mean_y = (w @ x) / w.sum(), (w @ y) / w.sum()
            centred = x - mean_x
            gram = centred.T @ (w[:, None] * centred) + ridge * torch.eye(x.shape[1]).double() + w.sum() * colour
            solution = torch.linalg.solve(gram, centred.T @ (w[:, None] * (y - mean_y)))
            weights.append(solution)
            biases.append(mean_y - mean_x @ solution)
        weight, bias = torch.stack(weights), torch.stack(biases)
        said = x @ weight + bias[:, None]
        fits.append((_validation(said.float(), lesson)[0], weight.float(), bias.float()))
    _, weight, bias = max(fits, key=lambda f: f[0])
    return weight, bias


@dataclass
class _LeftOut:
    """How the ensemble would do on unheard sound, per coefficient, told from the left-out parts."""

    correlation: Float[Tensor, " D"]
    """Of the ensemble's average with the truth."""
    spread: Float[Tensor, " D"]
    """Standard deviation of the average."""


def _left_out(z: Float[Tensor, "E n D"], lesson: _Lesson) -> _LeftOut:
    """Each part is unheard by one member only, so what the average would say of it is worked out.

    The member that left a part out errs there on its own, while the others cannot know its error: their covariance is
    the variance S of what all agree on. One member has variance S + N, the average S + N / E, both the same covariance
    with the truth.
    """
    members, truth = lesson.left_out.shape[0], lesson.targets.z[:, : z.shape[-1]]
    rows = []
    for e, out in enumerate(lesson.left_out):
        if out.sum() < 3:
            continue
        mine = z[e, out] - z[e, out].mean(0)
        others = (z[:, out].sum(0) - z[e, out]) / max(1, members - 1) if members > 1 else mine
        rows.append(torch.stack([correlation(mine, truth[out]), (mine**2).mean(0), (mine * others).mean(0)]))
    if not rows:
        return _LeftOut(torch.zeros(z.shape[-1]), torch.ones(z.shape[-1]))
    alone, variance, shared = torch.stack(rows).mean(0)
    shared = shared.clamp(min=0).minimum(variance)
    averaged = (shared + (variance - shared) / members).clamp(min=1e-9)
    return _LeftOut((alone * (variance / averaged).sqrt()).clamp(-1, 1), averaged.sqrt())


def _validation(z: Float[Tensor, "E n D"], lesson: _Lesson) -> tuple[float, float, float]:
    """Score, correlation of the jaw and mean correlation of the active coefficients on the left-out parts."""
    active = torch.from_numpy(lesson.targets.active.copy())
    r = _left_out(z, lesson).correlation[: len(active)]
    jaw, mouth = float(r[JAW]), float(r[active].mean()) if active.any() else 0.0
    return 0.5 * (jaw + mouth), jaw, mouth


# --- the transformer ---


def _train(
    lesson: _Lesson, linear: tuple[Tensor, Tensor], config: SpeechTrainConfig, reporter: Reporter, seed: int
) -> list[_Snapshot]:
    """Trains all members at once; a snapshot at the start and after every `score_every` steps."""
    targets = lesson.targets
    model = SpeechModel(replace(config.model, outputs=targets.z.shape[1]), config.dropout)
    averaged = copy.deepcopy(model).eval()
    steps = config.steps
    if steps is None:
        steps = int(np.clip(STEPS_AT_LEAST + STEPS_PER_SECOND * len(targets.z) / TOKEN_RATE, 0, STEPS_AT_MOST))
    trained = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    kept = [p for name, p in averaged.named_parameters() if not name.startswith("linear.")]
    optimiser = torch.optim.AdamW(trained, lr=config.rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate_factor(s, steps))
    augment = Augmenter(config.augment, torch.Generator().manual_seed(seed))
    linear_said = _linear_inputs(lesson.log_mel, config.model) @ linear[0] + linear[1][:, None]
    snapshots = _snapshots(0, averaged, linear_said, lesson, config)
    with reporter.bar("Learning the mouth from speech", steps) as bar:
        for step in range(1, steps + 1):
            loss = _loss(model, lesson, augment, config)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, math.sqrt(config.model.members))
            optimiser.step()
            schedule.step()
            with torch.no_grad():  # a young average forgets its start quickly
                for slow, fast in zip(kept, trained, strict=True):
                    slow.lerp_(fast, 1 - min(config.average, step / (step + 9)))
            if step % config.score_every == 0 or step == steps:
                snapshots += _snapshots(step, averaged, linear_said, lesson, config)
                bar.advance(note=f"left-out parts {max(s.score for s in snapshots if s.step == step):.2f}")
            else:
                bar.advance()
    return snapshots


def _rate_factor(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / 30)
    return warm_up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _loss(model: SpeechModel, lesson: _Lesson, augment: Augmenter, config: SpeechTrainConfig) -> Tensor:
    """Weighted square error of position and velocity, averaged over members."""
    targets, ahead = lesson.targets, config.model.look_ahead_tokens
    tokens = min(config.stretch_tokens, len(targets.z)) + ahead
    x, y, w = augment(lesson.log_mel, targets.z, lesson.weights, targets.rest_z, config.batch, tokens)
    model.train()
    z, _ = model.member_step(x, model.initial_state(config.batch))
    error = z[:, :, ahead:] - y[:, :, : -ahead or None]
    w = w[:, :, : -ahead or None]
    position = (error**2 @ targets.weight * w).sum() / w.sum().clamp(min=1)
    change, both = error[:, :, 2:] - error[:, :, :-2], w[:, :, 2:] * w[:, :, :-2]
    velocity = (change**2 @ targets.weight * both).sum() / both.sum().clamp(min=1)
    return position + config.velocity_weight * velocity


@torch.no_grad()
def _say(model: SpeechModel, log_mel: Tensor) -> Float[Tensor, "E n D"]:
    """Standardised outputs of every member for the unvaried clip."""
    ahead = model.config.look_ahead_tokens
    state, out = model.initial_state(), []
    for block in pad_with_silence(log_mel[None], ahead).split(512, dim=1):
        z, state = model.member_step(block, state)
        out.append(z[:, 0])
    return torch.cat(out, dim=1)[:, ahead:]


def _snapshots(
    step: int, averaged: SpeechModel, linear_said: Tensor, lesson: _Lesson, config: SpeechTrainConfig
) -> list[_Snapshot]:
    """Both paths mixed in each of the shares, at this step."""
    said = _say(averaged, lesson.log_mel)
    shares = config.linear_shares if step else (1.0,)  # untrained, only the linear path says anything
    weights = {k: v.clone() for k, v in averaged.state_dict().items()}
    return [_Snapshot(step, a, _validation(said * (1 - a) + linear_said * a, lesson)[0], weights) for a in shares]


# --- putting it together ---


@torch.no_grad()
def _finished(
    lesson: _Lesson, linear: tuple[Tensor, Tensor], chosen: _Snapshot, config: SpeechTrainConfig
) -> tuple[SpeechModel, dict[str, float]]:
    """The chosen mix as one model of the person, and how it did on the left-out parts."""
    t, outputs = lesson.targets, config.model.outputs
    model = SpeechModel(config.model).eval()
    own = model.state_dict()
    weights = {k: v for k, v in chosen.weights.items() if k not in _PERSON}
    weights["head.weight"] = (1 - chosen.share) * weights["head.weight"][..., :outputs]
    weights["head.bias"] = (1 - chosen.share) * weights["head.bias"][..., :outputs]
    weights["linear.weight"] = chosen.share * linear[0][..., :outputs]
    weights["linear.bias"] = chosen.share * linear[1][:, None, :outputs]
    weights |= {"target_mean": t.mean, "target_std": t.std, "rest": t.rest, "low": t.low, "high": t.high}
    weights["gain"] = own["gain"]
    model.load_state_dict({k: v.contiguous() for k, v in weights.items()})
    said = _say(model, lesson.log_mel)
    _, jaw, mouth = _validation(said, lesson)
    model.gain.copy_(_gain(said, lesson, config))
    return model, {"validation_jaw": jaw, "validation_mouth": mouth}


_PERSON = ("target_mean", "target_std", "gain", "rest", "low", "high")


def _gain(z: Float[Tensor, "E n D"], lesson: _Lesson, config: SpeechTrainConfig) -> Float[Tensor, " D"]:
    """What widens the ensemble's average on unheard sound to the person's own spread."""
    t, left_out = lesson.targets, _left_out(z, lesson)
    trust = (left_out.correlation / config.trusted_correlation).clamp(0, 1)
    # The person's own spread of what can be heard; slow changes of expression are not made up for with fast ones.
    wanted = t.z[:, : z.shape[-1]].std(0) * trust
    return (wanted / left_out.spread.clamp(min=1e-6)).clamp(0.0, config.largest_gain)
