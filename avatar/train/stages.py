"""Training as data: what is free, at which size, how long. One loop (`train.loop`) runs them all."""

from __future__ import annotations

from dataclasses import dataclass

PARAMETER_GROUPS = (
    "means", "quats", "log_scales", "opacity_logits", "colors", "skin_logits", "bases", "drivers", "hash_tables",
    "hash_layers", "backdrop", "corrections",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stretch of training."""

    name: str
    share: float
    """Share of all steps."""
    downscale: int
    """Pictures are fitted at 1/downscale of their size."""
    free: tuple[str, ...]
    """Parameter groups that move."""
    density: bool
    """Growth and relocation of Gaussians."""
    thinned: bool
    """Every step leaves some Gaussians out, see model.thinning."""
    label_every: int
    """Branch coverage is supervised every so many steps (it costs two more channels)."""


EVERYTHING = PARAMETER_GROUPS
UNCORRECTED = tuple(g for g in PARAMETER_GROUPS if g != "corrections")

STAGES = (
    # Half size first: a step costs a quarter, and the first useful picture comes early.
    Stage("coarse", share=0.25, downscale=2, free=UNCORRECTED, density=True, thinned=True, label_every=1),
    Stage("fine", share=0.50, downscale=1, free=EVERYTHING, density=True, thinned=True, label_every=4),
    # Gaussians stay where they are, all of them; the decayed rates sharpen what is there.
    Stage("settle", share=0.25, downscale=1, free=EVERYTHING, density=False, thinned=False, label_every=4),
)


def stage_at(step: int, steps: int, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """The stage that step number `step` (0-based) of `steps` belongs to."""
    done, total = 0.0, sum(s.share for s in stages)
    for stage in stages:
        done += stage.share / total
        if step < round(done * steps):
            return stage
    return stages[-1]
