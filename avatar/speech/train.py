"""Teaches a speech model one person's mouth from one clip.

Each member of the ensemble leaves out its own part of the training clip. What the members say of the parts they left
out decides when to stop, how smooth the memory is and how far the average must be widened to keep the person's lip
amplitude. The clip's held-out end is used for none of this, only for the scores.
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
from avatar.speech.augment import AugmentConfig, Augmenter
from avatar.speech.hearing import measured_speech
from avatar.speech.model import (
    COLUMNS_PER_TOKEN,
    TOKEN_RATE,
    SpeechModel,
    SpeechModelConfig,
    coarse_windows,
    joined_windows,
    likeness,
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
    closing_weight: float = 4.0
    """Of moments at which the lips shut for a p, b or m, beside 1 of others."""
    closing_shares: tuple[float, float] = (0.65, 0.93)
    """Shares of the clip in which the memory is less sure that the lips shut than where they begin to be pulled, and
    than where they are shut wholly."""
    closing_depth: float = 0.25
    """Quantile of the jaw at moments at which the lips shut that they are pulled to."""
    closing_least: float = 0.3
    """Coefficients whose mean at those moments is nearer to their mean, in spreads, are left alone."""
    velocity_weight: float = 0.3
    """Of the error of the change over two tokens."""
    average: float = 0.98
    """Decay of the running average of the weights, which is what is kept."""
    score_every: int = 50
    margin_tokens: int = 10
    """Around a left-out part, not learned from either: what the part's own sound says of its neighbours."""
    focus_seconds: tuple[float, float] = (0.04, 0.04)
    """The memory compares the sound of this long after the mouth's moment most, and other sound by a Gaussian of this
    spread: lips and jaw are ahead of what is heard of them."""
    focus_floor: float = 0.2
    """Least weight of a token in that comparison; the largest is 1."""
    loudness_weight: float = 0.4
    """How much a token's loudness (its mean over the bands) counts in it, beside 1 of how the bands differ from that:
    a sound said louder is still the same sound."""
    memory_size: int = 1500
    """Most moments of the clip that the memory holds."""
    ridges: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Smoothness of the memory that is tried: noise of a moment's mouth, relative to its likeness to itself."""
    encoder_shares: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    """Shares of a moment's difference from another that are tried for what a speech encoder says of them; with 0, one
    that tells nothing does no harm."""
    memory_share: float = 0.7
    """Of what is said; the transformer says the rest. Fixed, because minutes of speech cannot tell it surely."""
    tolerance: float = 0.02
    """The last state that scores within this of the best is kept: the score is no surer than that, and the average of
    several networks stands more training than each of them shows (Sollich and Krogh 1996)."""
    largest_gain: float = 4.0
    trusted_correlation: float = 0.3
    """A coefficient predicted worse than this gets a proportionally smaller spread: noise should not move the mouth."""


@dataclass
class _Lesson:
    """What is learned from, up to the held-out part."""

    log_mel: Float[Tensor, "T M"]
    encoded: Float[Tensor, "n W"] | None
    """What a speech encoder says of each token."""
    targets: SpeechTargets
    weights: Float[Tensor, "E n"]
    """0 where a member may not learn."""
    left_out: Bool[Tensor, "E n"]


@dataclass
class _Snapshot:
    """A state of training and what it scores on the left-out parts."""

    step: int
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
    width = 0 if features.encoded is None else features.encoded.shape[1]
    config = replace(config, model=replace(config.model, encoder_width=width))
    lesson = _lesson(features, track, config, held_out_start)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.manual_seed(seed)
        memory = _fit_memory(lesson, config)
        snapshots = _train(lesson, memory, config, reporter, seed)
        best = max(s.score for s in snapshots)
        chosen = max((s for s in snapshots if s.score >= best - config.tolerance), key=lambda s: s.step)
        model, validation = _finished(lesson, memory, chosen, config)
    scores: dict[str, Any] = {"steps": chosen.step, "memory_ridge": memory.ridge, **validation}
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
    weights = weights * torch.from_numpy(np.where(targets.closing, config.closing_weight, 1.0)).float()
    encoded = None if features.encoded is None else torch.from_numpy(features.encoded[: count // COLUMNS_PER_TOKEN])
    return _Lesson(torch.from_numpy(features.log_mel[:count]), encoded, targets, weights, left_out)


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


# --- the memory ---


@dataclass
class _Remembered:
    """A memory fitted to the clip, and what it says of each part without having heard it."""

    config: SpeechModelConfig
    tensors: dict[str, Tensor]
    said: Float[Tensor, "E n Z"]
    closing: Float[Tensor, "E n"]
    """How surely the lips shut, of the same kind."""
    ridge: float
    score: float
    """On the left-out parts."""


def _windows(lesson: _Lesson, config: SpeechModelConfig) -> Float[Tensor, "n F"]:
    """What the memory hears when it speaks of each token."""
    probe = SpeechModel(replace(config, members=1, width=config.heads))
    padded = probe.standardise(pad_with_silence(lesson.log_mel, config.look_ahead_tokens))
    history = torch.cat([probe.initial_state().columns[0], padded])
    n = len(lesson.log_mel) // COLUMNS_PER_TOKEN
    heard = coarse_windows(history, n + config.look_ahead_tokens, config)[config.look_ahead_tokens :]
    return joined_windows(heard, lesson.encoded)


def _fit_memory(lesson: _Lesson, config: SpeechTrainConfig) -> _Remembered:
    """The memory that does best on the left-out parts, of one for each share of a speech encoder."""
    x = _windows(lesson, config.model)
    shares = (0.0,) if lesson.encoded is None else config.encoder_shares
    return max((_memory_of(x, share, lesson, config) for share in shares), key=lambda m: m.score)


def _memory_of(
    x: Float[Tensor, "n F"], encoder_share: float, lesson: _Lesson, config: SpeechTrainConfig
) -> _Remembered:
    """Kernel ridge regression on a subset of the moments (Smola and Schoelkopf 2000), as smooth as does best on the
    left-out parts."""
    known = (lesson.weights.sum(0) > 0).nonzero()[:, 0]
    chosen = known[torch.linspace(0, len(known) - 1, min(config.memory_size, len(known))).long()]
    c = replace(config.model, memory_size=len(chosen))
    mean, directions = _directions(x[known], encoder_share, config)
    x = (x - mean) @ directions
    k = likeness(x, x[chosen], c.memory_sharpness).double()
    shut = torch.from_numpy(lesson.targets.closing)
    centre, y = k[chosen], torch.cat([lesson.targets.z, shut[:, None]], dim=1).double()
    fits = [_solve(k, centre, y, w.double(), config.ridges) for w in lesson.weights]  # each without its part
    said = [torch.stack([(k @ a + b).float() for a, b in (f[i] for f in fits)]) for i in range(len(config.ridges))]
    scores = [_validation(z[..., :-1], lesson)[0] for z in said]
    best = max(range(len(config.ridges)), key=lambda i: scores[i])
    everything = lesson.weights.amax(0).double()
    weight, bias = _solve(k, centre, y, everything, config.ridges[best : best + 1])[0]
    kept = [*range(c.outputs), -1]
    tensors = {
        "memory.mean": mean, "memory.directions": directions, "memory.centres": x[chosen],
        "memory.weight": weight[:, kept].float(), "memory.bias": bias[kept].float(),
    }  # fmt: skip
    return _Remembered(c, tensors, said[best][..., :-1], said[best][..., -1], config.ridges[best], scores[best])


def _directions(
    x: Float[Tensor, "n F"], encoder_share: float, config: SpeechTrainConfig
) -> tuple[Float[Tensor, " F"], Float[Tensor, "F R"]]:
    """Mean of the windows, and the principal directions of what is listened to, scaled to a mean square of 1."""
    mean, listening = x.mean(0), _listening(config)
    if config.model.encoder_width:
        parts = [listening, torch.eye(config.model.encoder_width)]
        far = [_size(y @ part) for y, part in zip((x - mean).split([len(p) for p in parts], dim=1), parts, strict=True)]
        shares = (1 - encoder_share, encoder_share)
        listening = torch.block_diag(*(s**0.5 / f * p for s, f, p in zip(shares, far, parts, strict=True)))
    heard = ((x - mean) @ listening).double()
    inputs = x.shape[1]
    _, kept = torch.linalg.eigh(heard.T @ heard)
    kept = kept.flip(1)[:, : config.model.memory_rank or inputs].float()
    return mean, listening @ kept / _size(heard).float()


def _size(x: Float[Tensor, "n F"]) -> Float[Tensor, ""]:
    """Root mean square length of the rows."""
    return x.square().sum(1).mean().sqrt().clamp(min=1e-6)


def _listening(config: SpeechTrainConfig) -> Float[Tensor, "F F"]:
    """What of a window of log-mel is compared, as a map of its numbers: tokens by their weight, less of their
    loudness."""
    c, (centre, spread) = config.model, config.focus_seconds
    seconds = (torch.arange(c.memory_tokens) - (c.memory_tokens - 1) + c.look_ahead_tokens) / TOKEN_RATE
    bell = torch.exp(-0.5 * ((seconds - centre) / spread) ** 2)
    loudness = torch.full((c.memory_bands, c.memory_bands), 1 / c.memory_bands)
    bands = torch.eye(c.memory_bands) - (1 - config.loudness_weight) * loudness
    return torch.kron(bands, torch.diag(config.focus_floor + (1 - config.focus_floor) * bell))


def _solve(
    k: Float[Tensor, "n m"], centre: Float[Tensor, "m m"], y: Float[Tensor, "n Z"], w: Float[Tensor, " n"],
    ridges: tuple[float, ...],
) -> list[tuple[Float[Tensor, "m Z"], Float[Tensor, " Z"]]]:  # fmt: skip
    """Weights and bias for each ridge."""
    bias = y[w > 0].mean(0)
    gram, right = k.T @ (w[:, None] * k), k.T @ (w[:, None] * (y - bias))
    jitter = 1e-6 * len(k) * torch.eye(len(centre)).double()
    return [(torch.linalg.solve(gram + ridge * centre + jitter, right), bias) for ridge in ridges]


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
    lesson: _Lesson, memory: _Remembered, config: SpeechTrainConfig, reporter: Reporter, seed: int
) -> list[_Snapshot]:
    """Trains all members at once; a snapshot at the start and after every `score_every` steps."""
    targets = lesson.targets
    model = SpeechModel(replace(config.model, outputs=targets.z.shape[1]), config.dropout)
    averaged = copy.deepcopy(model).eval()
    steps = config.steps
    if steps is None:
        steps = int(np.clip(STEPS_AT_LEAST + STEPS_PER_SECOND * len(targets.z) / TOKEN_RATE, 0, STEPS_AT_MOST))
    trained, kept = list(model.parameters()), list(averaged.parameters())
    optimiser = torch.optim.AdamW(trained, lr=config.rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate_factor(s, steps))
    augment = Augmenter(config.augment, torch.Generator().manual_seed(seed))
    snapshots = [_snapshot(0, averaged, memory, lesson, config)]
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
                snapshots.append(_snapshot(step, averaged, memory, lesson, config))
                bar.advance(note=f"left-out parts {snapshots[-1].score:.2f}")
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
    """Standardised outputs of every member, without the memory, for the unvaried clip."""
    ahead = model.config.look_ahead_tokens
    state, out = model.initial_state(), []
    for block in pad_with_silence(log_mel[None], ahead).split(512, dim=1):
        z, state = model.member_step(block, state)
        out.append(z[:, 0])
    return torch.cat(out, dim=1)[:, ahead:]


def _snapshot(
    step: int, averaged: SpeechModel, memory: _Remembered, lesson: _Lesson, config: SpeechTrainConfig
) -> _Snapshot:
    weights = {k: v.clone() for k, v in averaged.state_dict().items() if not k.startswith("memory.")}
    return _Snapshot(step, _validation(_both(averaged, memory, lesson, config), lesson)[0], weights)


def _both(
    network: SpeechModel, memory: _Remembered, lesson: _Lesson, config: SpeechTrainConfig
) -> Float[Tensor, "E n Z"]:
    """What transformer and memory say together; each member's memory has not heard the part it left out either."""
    return _say(network, lesson.log_mel) * (1 - config.memory_share) + memory.said * config.memory_share


# --- putting it together ---


@torch.no_grad()
def _finished(
    lesson: _Lesson, memory: _Remembered, chosen: _Snapshot, config: SpeechTrainConfig
) -> tuple[SpeechModel, dict[str, float]]:
    """The chosen state as a model of the person, and how it did on the left-out parts."""
    t, outputs, share = lesson.targets, config.model.outputs, config.memory_share
    network = SpeechModel(replace(config.model, outputs=t.z.shape[1])).eval()
    network.load_state_dict(chosen.weights, strict=False)
    said = _both(network, memory, lesson, config)
    _, jaw, mouth = _validation(said, lesson)
    model = SpeechModel(memory.config).eval()
    weights = {k: v for k, v in chosen.weights.items() if k not in _PERSON}
    weights["head.weight"] = (1 - share) * weights["head.weight"][..., :outputs]
    weights["head.bias"] = (1 - share) * weights["head.bias"][..., :outputs]
    weights |= memory.tensors
    for name in ("memory.weight", "memory.bias"):
        weights[name] = torch.cat([share * weights[name][..., :outputs], weights[name][..., outputs:]], dim=-1)
    weights |= _closing(memory, lesson, config)
    weights |= {"target_mean": t.mean, "target_std": t.std, "rest": t.rest, "low": t.low, "high": t.high}
    weights["gain"] = _gain(said, lesson, config)[:outputs]
    spoken = measured_speech(lesson.log_mel.numpy())
    if spoken is not None:
        level, (mean, tokens) = spoken
        weights |= {"level": torch.tensor(level), "spectrum": torch.from_numpy(mean)}
        weights["spectrum_tokens"] = torch.tensor(tokens)
    model.load_state_dict({k: v.contiguous() for k, v in weights.items()})
    return model, {"validation_jaw": jaw, "validation_mouth": mouth}


_PERSON = (
    "target_mean",
    "target_std",
    "gain",
    "rest",
    "low",
    "high",
    "closed",
    "closing",
    "closing_from",
    "closing_to",
    "level",
    "spectrum",
    "spectrum_tokens",
)


def _closing(memory: _Remembered, lesson: _Lesson, config: SpeechTrainConfig) -> dict[str, Tensor]:
    """The person's shut lips, and how sure of them one must be, told from the left-out parts."""
    t, outputs = lesson.targets, config.model.outputs
    unheard = memory.closing[lesson.left_out]
    shut = torch.from_numpy(t.closing) & (lesson.weights.sum(0) > 0)
    if not shut.any() or len(unheard) == 0:
        return {
            "closed": t.rest,
            "closing": torch.zeros(outputs),
            "closing_from": torch.zeros(()),
            "closing_to": torch.ones(()),
        }
    z = t.z[shut, :outputs]
    middle = z.mean(0)
    closed = z.median(dim=0).values
    closed[JAW] = z[:, JAW].quantile(config.closing_depth)
    begin, whole = unheard.quantile(torch.tensor(config.closing_shares))
    return {
        "closed": (t.mean + t.std * closed).maximum(t.low).minimum(t.high),
        "closing": middle.sign() * (middle.abs() > config.closing_least) * torch.from_numpy(t.active),
        "closing_from": begin, "closing_to": whole.maximum(begin + 1e-6),
    }  # fmt: skip


def _gain(z: Float[Tensor, "E n D"], lesson: _Lesson, config: SpeechTrainConfig) -> Float[Tensor, " D"]:
    """What widens the ensemble's average on unheard sound to the person's own spread."""
    t, left_out = lesson.targets, _left_out(z, lesson)
    trust = (left_out.correlation / config.trusted_correlation).clamp(0, 1)
    # The person's own spread of what can be heard; slow changes of expression are not made up for with fast ones.
    wanted = t.z[:, : z.shape[-1]].std(0) * trust
    return (wanted / left_out.spread.clamp(min=1e-6)).clamp(0.0, config.largest_gain)
