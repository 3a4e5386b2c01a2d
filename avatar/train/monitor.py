"""What one can watch while a fit runs: TensorBoard scalars and pictures, and `metrics.jsonl` for everything else."""

from __future__ import annotations

import json
from pathlib import Path

from jaxtyping import Float
from torch import Tensor


def metrics_path(run_folder: Path) -> Path:
    """Where a fit writes its numbers, one JSON object per line."""
    return run_folder / "metrics.jsonl"


class Monitor:
    """Writes scalars and pictures of a run; continues the files of a run that is resumed at `step`."""

    def __init__(self, run_folder: Path, step: int) -> None:
        self._path = metrics_path(run_folder)
        self._keep_until(step)
        self._writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=step)
        except ImportError:
            pass  # metrics.jsonl holds the same numbers

    def _keep_until(self, step: int) -> None:
        """Lines of steps that will be run again are dropped."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step] if step else []
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of numbers."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Float[Tensor, "H W 3"]) -> None:
        """A picture, 0..1."""
        if self._writer is not None:
            self._writer.add_image(name, image.detach().cpu().clamp(0, 1), step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def read_metrics(run_folder: Path) -> list[dict[str, float | int]]:
    """All lines of `metrics.jsonl`."""
    path = metrics_path(run_folder)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
