"""What each part of the model is worth: one table of held-out scores, every row one change from the defaults.

    python scripts/ablate.py RUN_FOLDER... [--preset quick] [--steps 800] [--only NAME...] [--threads 1]

A run folder is what `avatar fit` leaves: its decoded frames and its track are used again, only training is repeated.
Scores are of the tracked row, on all held-out frames, and for the PSNR also of the row *driven* (without appearance
codes); seconds are processor time. docs/quality.md holds the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from avatar.capture import load_capture
from avatar.config import FitConfig, load_preset, with_changes
from avatar.dataset import FrameSet
from avatar.evaluate.metrics import Scores
from avatar.model import initial_model
from avatar.pipeline import finished_model
from avatar.progress import SILENT
from avatar.track import load_track
from avatar.train import Trainer

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no appearance codes": {"track": {"codes": None}},
    "appearance codes in every step": {"train": {"codes_hidden": 0.0}},
    "half the bases": {"model": {"face": {"bases": 10}, "mouth": {"bases": 4}, "torso": {"bases": 3}}},
    "half as many bases again": {"model": {"face": {"bases": 30}, "mouth": {"bases": 12}, "torso": {"bases": 9}}},
    "hashgrid, baked": {"model": {"motion": "hashgrid"}},
    "skin weights as they start": {"train": {"rates": {"skin_logits": 0.0}}},
    "no pose corrections": {"train": {"rates": {"corrections": 0.0}}},
    "no Gaussian left out": {"train": {"left_out": 0.0}},
    "no density control": {"model": {"start_fraction": 1.0}, "train": {"density": {"every": 10**7}}},
    "no geometric prior": {"model": {"geometric_prior": False}},
    "no weight on the mouth": {"train": {"losses": {"mouth_weight": 1.0}}},
}


def held_out_scores(frames: FrameSet, config: FitConfig) -> tuple[dict[str, Any], float]:
    """Trains from step 0; scores of the finished model, and its PSNR without appearance codes in dB."""
    with TemporaryDirectory() as folder:
        trainer = Trainer(frames, initial_model(frames, config.model, config.train.seed), config, Path(folder))
        trainer.run()
        model, _ = finished_model(trainer, SILENT)
    tracked, driven = Scores(), Scores()
    for index in frames.held_out_indices:
        batch = frames.batch(np.array([index]))
        for scores, motion in ((tracked, batch.motion), (driven, replace(batch.motion, codes=None))):
            with torch.no_grad():
                image = model(motion).image[0].clamp(0, 1).cpu().numpy()
            scores.add(image, frames.picture(int(index)), frames.track.regions.labels(int(index)))
    return tracked.result(), driven.result()["psnr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset = with_changes(load_preset(options.preset), {"train": {"steps": options.steps}}, "--steps")
    print("| | " + " | ".join(f"{run.name}: PSNR, driven, head, torso, seconds" for run in options.runs) + " |")
    print("|---" * (1 + len(options.runs)) + "|")
    sets = [
        FrameSet(load_capture(run / "capture"), load_track(run / "track.safetensors"), torch.device("cpu"))
        for run in options.runs
    ]
    for name in options.only:
        cells = []
        for frames in sets:
            changes = dict(VARIANTS[name])
            if track := changes.pop("track", None):
                frames = FrameSet(frames.capture, replace(frames.track, **track), frames.device)
            start = time.process_time()
            result, driven = held_out_scores(frames, with_changes(preset, changes, name))
            scores = (f"{value:.2f}" for value in (result["psnr"], driven, result["head"], result["torso"]))
            cells.append(", ".join([*scores, f"{time.process_time() - start:.0f}"]))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
