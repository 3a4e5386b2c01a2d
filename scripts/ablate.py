"""What each part of the model is worth: one table of held-out scores, every row one change from the defaults.

    python scripts/ablate.py RUN_FOLDER... [--preset quick] [--steps 800] [--only NAME...] [--threads 1]

A run folder is what `avatar fit` leaves: its decoded frames and its track are used again, only training is repeated.
Scores are of the tracked row, on all held-out frames; seconds are processor time. docs/quality.md holds the table.
"""

from __future__ import annotations

import argparse
import time
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
    "half the bases": {"model": {"face": {"bases": 10}, "mouth": {"bases": 4}, "torso": {"bases": 3}}},
    "half as many bases again": {"model": {"face": {"bases": 30}, "mouth": {"bases": 12}, "torso": {"bases": 9}}},
    "hashgrid, baked": {"model": {"motion": "hashgrid"}},
    "skin weights as they start": {"train": {"rates": {"skin_logits": 0.0}}},
    "no pose corrections": {"train": {"rates": {"corrections": 0.0}}},
    "no density control": {"model": {"start_fraction": 1.0}, "train": {"density": {"every": 10**9}}},
    "no geometric prior": {"model": {"geometric_prior": False}},
    "no weight on the mouth": {"train": {"losses": {"mouth_weight": 1.0}}},
}


def held_out_scores(frames: FrameSet, config: FitConfig) -> dict[str, Any]:
    """Trains from step 0 and scores the finished model."""
    with TemporaryDirectory() as folder:
        trainer = Trainer(frames, initial_model(frames, config.model, config.train.seed), config, Path(folder))
        trainer.run()
        model, _ = finished_model(trainer, SILENT)
    scores = Scores()
    for index in frames.held_out_indices:
        batch = frames.batch(np.array([index]))
        with torch.no_grad():
            image = model(batch.motion).image[0].clamp(0, 1).cpu().numpy()
        scores.add(image, frames.picture(int(index)), frames.track.regions.labels(int(index)))
    return scores.result()


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
    print("| | " + " | ".join(f"{run.name}: PSNR, head, torso, seconds" for run in options.runs) + " |")
    print("|---" * (1 + len(options.runs)) + "|")
    sets = [
        FrameSet(load_capture(run / "capture"), load_track(run / "track.safetensors"), torch.device("cpu"))
        for run in options.runs
    ]
    for name in options.only:
        cells = []
        for frames in sets:
            start = time.process_time()
            result = held_out_scores(frames, with_changes(preset, VARIANTS[name], name))
            seconds = time.process_time() - start
            cells.append(f"{result['psnr']:.2f}, {result['head']:.2f}, {result['torso']:.2f}, {seconds:.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
