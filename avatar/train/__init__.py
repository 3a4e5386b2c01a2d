"""Stage 5b: fitting the model to the frames."""

from avatar.train.checkpoint import checkpoint_model, checkpoint_path, load_checkpoint, save_checkpoint
from avatar.train.loop import Trainer
from avatar.train.monitor import read_metrics
from avatar.train.stages import STAGES, Stage

__all__ = [
    "STAGES", "Stage", "Trainer", "checkpoint_model", "checkpoint_path", "load_checkpoint", "read_metrics",
    "save_checkpoint",
]  # fmt: skip
