"""The one training loop: runs the stages of `train.stages`, which are data."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar.config import FitConfig
from avatar.conventions import BRANCHES
from avatar.dataset import FrameBatch, FrameSet, MotionBatch
from avatar.model import AvatarModel
from avatar.model.gaussians import CANONICAL
from avatar.model.motion import BasisWeights
from avatar.progress import SILENT, Bar, Reporter
from avatar.train.checkpoint import checkpoint_path, save_checkpoint
from avatar.train.control import Control
from avatar.train.corrections import Corrections
from avatar.train.density import adapt
from avatar.train.losses import training_loss
from avatar.train.monitor import Monitor
from avatar.train.stages import STAGES, Stage, stage_at

SCORED_FRAMES = 4
"""Held-out frames in the running score."""
LOG_EVERY = 25


class Trainer:
    """A model on its way: `run()` until done or interrupted; `checkpoint` saves and restores it."""

    def __init__(
        self,
        frames: FrameSet,
        model: AvatarModel,
        config: FitConfig,
        run_folder: Path,
        reporter: Reporter = SILENT,
        stages: tuple[Stage, ...] = STAGES,
    ) -> None:
        self.frames, self.model, self.config = frames, model, config
        self.device = frames.device
        self.run_folder, self.reporter, self.stages = run_folder, reporter, stages
        self.corrections = Corrections(len(frames)).to(self.device)
        self.optimizer = self.new_optimizer()
        self.grad_sink = torch.zeros(model.count, 2, device=self.device)
        self.uncovered = frames.uncovered().unsqueeze(-1)
        self.step = 0
        self.curve: list[dict[str, float | int]] = []
        """Running held-out score: step, psnr."""

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW over all parameters, one group per kind and branch; rates are set at every step."""
        groups = []
        for name in BRANCHES:
            branch = self.model.branch(name)
            groups += [{"name": f"{name}.{k}", "kind": k, "params": [getattr(branch, k)]} for k in CANONICAL]
            decay = self.config.train.rates.basis_decay
            groups.append({"name": f"{name}.bases", "kind": "bases", "params": [branch.bases], "weight_decay": decay})
        drivers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.model.drivers.named_parameters():
            hashed = "hash_tables" if ".encoding." in name else "hash_layers"
            drivers.setdefault(hashed if self.model.fields else "drivers", []).append(parameter)
        groups += [{"name": kind, "kind": kind, "params": parameters} for kind, parameters in drivers.items()]
        groups.append({"name": "backdrop", "kind": "backdrop", "params": [self.model.backdrop]})
        # The tiny eps is 3DGS's: gradients of single Gaussians are far below Adam's default.
        return torch.optim.AdamW(groups, lr=0.0, eps=1e-15, weight_decay=0.0, fused=True)

    def run(self) -> bool:
        """Trains to the end; False if interrupted by Ctrl-C or told to stop (the step under way is finished and
        saved)."""
        steps = self.config.train.steps
        monitor = Monitor(self.run_folder, self.step)
        control = Control(self.run_folder, lambda: save_checkpoint(self, checkpoint_path(self.run_folder)))
        with self.reporter.bar("fitting the avatar", steps, self.step) as bar, _interrupt() as interrupted:
            while self.step < steps and control.goes_on(interrupted.is_set):
                terms = self._one_step()
                self.step += 1
                self._after_step(terms, bar, monitor)
        monitor.close()
        save_checkpoint(self, checkpoint_path(self.run_folder))
        return self.step >= steps

    def _one_step(self) -> dict[str, Tensor]:
        stage = stage_at(self.step, self.config.train.steps, self.stages)
        self._set_rates(stage)
        batch = self.frames.batch(self._drawn_frames()).downscaled(stage.downscale)
        motion, correction_size = self.corrections(batch.indices, self._heard(batch.motion))
        composite = self.model(
            motion,
            self.frames.camera.scaled(batch.images.shape[2], batch.images.shape[1]),
            with_coverage=self.step % stage.label_every == 0,
            grad_sink=self.grad_sink if stage.density else None,
            shown=self._shown() if stage.thinned else None,
        )
        terms = training_loss(self.model, composite, batch, correction_size, self.config.train.losses)
        torch.stack(list(terms.values())).sum().backward()
        if self.model.backdrop.grad is not None:
            # Where the person always stands in front, what little gradient there is comes through their edges: Adam
            # would draw noise there, and it would show as soon as the head turns further than in the clip.
            self.model.backdrop.grad.mul_(self.uncovered)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        driver, rates = self.model.drivers["face"], self.config.train.rates
        if isinstance(driver, BasisWeights) and "drivers" in stage.free:
            driver.fade(self._decayed(rates.drivers) * rates.driver_decay)
        if "corrections" in stage.free:
            self.corrections.step(batch.indices, self._decayed(self.config.train.rates.corrections))
        self.corrections.values.grad = None
        return terms

    def _heard(self, motion: MotionBatch) -> MotionBatch:
        """The motion, in some steps without appearance codes: speech and sliders have none either."""
        config = self.config.train
        # A function of seed and step, so that a resumed run makes the same choice.
        hidden = np.random.default_rng((config.seed, self.step, 1)).random() < config.codes_hidden
        return replace(motion, codes=None) if hidden else motion

    def _shown(self) -> Float[Tensor, " N"] | None:
        """Factor on each opacity that leaves some Gaussians out of this step; a function of seed and step too."""
        share = self.config.train.left_out
        if not share:
            return None
        generator = torch.Generator(self.device).manual_seed(hash((self.config.train.seed, self.step, 2)))
        chance = torch.rand(self.model.count, generator=generator, device=self.device)
        return (chance >= share) / (1 - share)

    def _drawn_frames(self) -> np.ndarray:
        """The frames of this step: every training frame once per epoch, in an order given by the seed."""
        train, size = self.frames.train_indices, self.config.train.batch
        numbers = np.arange(self.step * size, (self.step + 1) * size)
        seed = self.config.train.seed
        orders = {e: np.random.default_rng((seed, e)).permutation(len(train)) for e in set(numbers // len(train))}
        return np.array([train[orders[n // len(train)][n % len(train)]] for n in numbers])

    def _decayed(self, rate: float) -> float:
        return rate * self.config.train.rates.final_fraction ** (self.step / self.config.train.steps)

    def _set_rates(self, stage: Stage) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._decayed(getattr(self.config.train.rates, group["kind"]))
            for parameter in group["params"]:
                parameter.requires_grad_(group["kind"] in stage.free)
        self.corrections.values.requires_grad_("corrections" in stage.free)

    def _after_step(self, terms: dict[str, Tensor], bar: Bar, monitor: Monitor) -> None:
        config, stage = self.config.train, stage_at(self.step - 1, self.config.train.steps, self.stages)
        if stage.density and self.step % config.density.every == 0:
            self._adapt_density()
        note = ""
        if self.step % LOG_EVERY == 0 or self.step == config.steps:
            values = {f"loss/{k}": float(v.detach()) for k, v in terms.items()}
            values |= {"loss": sum(values.values()), "gaussians": self.model.count}
            monitor.scalars(self.step, values)
        if self.step % config.score_every == 0 or self.step == config.steps:
            psnr, picture = self.score()
            monitor.picture(self.step, "held_out", picture)
            self.curve.append({"step": self.step, "psnr": psnr})
            monitor.scalars(self.step, {"held_out/psnr": psnr})
            note = f"held out {psnr:.2f} dB"
        if self.step % config.checkpoint_every == 0 and self.step < config.steps:
            save_checkpoint(self, checkpoint_path(self.run_folder))
        bar.advance(note=note)

    def _adapt_density(self) -> None:
        config = self.config
        score = self.grad_sink[:, 0] / self.grad_sink[:, 1].clamp_min(1.0)
        counts = [self.model.branch(name).count for name in BRANCHES]
        for name, part in zip(BRANCHES, score.split(counts), strict=True):
            # A function of seed and step, so that a resumed run makes the same choice.
            generator = torch.Generator().manual_seed(hash((config.train.seed, self.step, BRANCHES.index(name))))
            budget = getattr(config.model, name).gaussians
            adapt(self.model.branch(name), self.optimizer, part, budget, config.train.density, generator)
        self.grad_sink = torch.zeros(self.model.count, 2, device=self.device)

    @torch.no_grad()
    def score(self) -> tuple[float, Tensor]:
        """Mean PSNR in dB over a few held-out frames (training frames if nothing is held out), and the first of them:
        truth and rendering side by side, (H, 2W, 3)."""
        pool = self.frames.held_out_indices if len(self.frames.held_out_indices) else self.frames.train_indices
        chosen = pool[np.linspace(0, len(pool) - 1, min(SCORED_FRAMES, len(pool))).astype(int)]
        errors, pictures = [], []
        for index in chosen:
            batch: FrameBatch = self.frames.batch(np.array([index]))
            image = self.model(batch.motion).image.clamp(0, 1)
            errors.append(-10 * torch.log10((image - batch.images).square().mean()))
            pictures.append(torch.cat([batch.images[0], image[0]], dim=1))
        return float(torch.stack(errors).mean()), pictures[0]


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that the step under way can finish; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number, frame) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
