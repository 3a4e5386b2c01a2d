"""Checkpoints: one safetensors file with everything that the next step depends on.

Random choices are functions of the seed and the step number, so no generator state needs keeping, and a resumed run
continues to the same result.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar.config import FitConfig, with_changes
from avatar.conventions import BRANCHES
from avatar.errors import UserError, one_line
from avatar.files import save_tensors, under
from avatar.model import AvatarModel, Branch
from avatar.model.motion import DriverFeatures
from avatar.types import Camera

if TYPE_CHECKING:
    from avatar.train.loop import Trainer

FORMAT = 1
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def checkpoint_path(run_folder: Path) -> Path:
    """Where a run keeps its newest checkpoint."""
    return run_folder / "checkpoints" / "last.safetensors"


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Writes the trainer's whole state, replacing the checkpoint before it."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"corrections.{k}": v for k, v in trainer.corrections.state_dict().items()}
    tensors["grad_sink"] = trainer.grad_sink
    for group in trainer.optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            state = trainer.optimizer.state.get(parameter)
            if state:
                tensors |= {f"adam.{group['name']}.{i}.{key}": state[key] for key in MOMENTS}
    metadata = {
        "format": str(FORMAT),
        "step": str(trainer.step),
        "loss": json.dumps(trainer.curve),
        "settings": json.dumps(dataclasses.asdict(trainer.config)),
    }
    save_tensors(path, tensors, metadata)


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Puts a trainer that was built with the same settings back to where the checkpoint left it.

    Raises:
        UserError: missing, damaged, or of a fit with other settings.
    """
    if not path.is_file():
        raise UserError(f"There is nothing to resume: {path} does not exist; run again without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"format {metadata.get('format')}")
        _check_settings(trainer, metadata, path)
        _restore(trainer, tensors)
        trainer.step, trainer.curve = int(metadata["step"]), json.loads(metadata["loss"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The checkpoint {path} is damaged ({one_line(error)}); run again without --resume to start over."
        ) from None


def checkpoint_model(path: Path, camera: Camera, hidden: int) -> AvatarModel:
    """Only the model of a checkpoint, to look at.

    Args:
        camera, hidden: the run's own.
    Raises:
        UserError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if key.startswith("model.")]  # noqa: SIM118
            tensors = under("model.", {key: file.get_tensor(key) for key in keys})
        shapes = {name: tensors[f"branches.{name}.bases"].shape for name in BRANCHES}
        branches = {name: Branch(shape[1], shape[0]) for name, shape in shapes.items()}
        hashed = any(".encoding." in key for key in tensors)
        motion = "hashgrid" if hashed else "basis"
        features = DriverFeatures.from_tensors(under("features.", tensors))
        model = AvatarModel(camera, branches, features, tensors["backdrop"], hidden, motion)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The checkpoint {path} cannot be read ({one_line(error)}).") from None
    return model.eval().requires_grad_(False)


def _check_settings(trainer: Trainer, metadata: dict[str, str], path: Path) -> None:
    """Early checkpoints do not say with which settings they were made; they are taken as they are."""
    found = json.loads(metadata.get("settings", "{}"))
    if found and with_changes(FitConfig(), found, str(path)) != trainer.config:
        raise UserError(f"The checkpoint {path} was made with other settings; run again without --resume.")


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    model: AvatarModel = trainer.model
    for name in BRANCHES:
        bases = tensors[f"model.branches.{name}.bases"]
        model.branches[name] = Branch(bases.shape[1], bases.shape[0]).to(trainer.device)
    model.load_state_dict(under("model.", tensors))
    trainer.corrections.load_state_dict(under("corrections.", tensors))
    trainer.grad_sink = tensors["grad_sink"].to(trainer.device)
    trainer.optimizer = trainer.new_optimizer()
    for group in trainer.optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            prefix = f"adam.{group['name']}.{i}."
            if prefix + "step" in tensors:
                moments = {key: tensors[prefix + key] for key in MOMENTS}
                trainer.optimizer.state[parameter] = {
                    key: value.clone().to(parameter.device if key != "step" or parameter.is_cuda else "cpu")
                    for key, value in moments.items()
                }
