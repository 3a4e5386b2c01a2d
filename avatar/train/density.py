"""Growth to the budget and relocation of Gaussians that no longer contribute.

After 3DGS-MCMC (Kheradmand et al. 2024) there is a budget instead of an explosion, and unused Gaussians are moved
rather than deleted. Where to: in proportion to the mean norm of the loss gradient by the projected centre, the measure
of Kerbl et al. 2023. A chosen Gaussian is split: two children drawn from it, each smaller.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatar.config import DensityConfig
from avatar.model.gaussians import CANONICAL, Branch

SPLIT_SHRINK = 1.6
"""Children are smaller by this factor (Kerbl et al. 2023, section 5.2)."""


@torch.no_grad()
def adapt(
    branch: Branch,
    optimizer: torch.optim.Optimizer,
    score: Float[Tensor, " N"],
    budget: int,
    config: DensityConfig,
    generator: torch.Generator,
) -> int:
    """Relocates dead Gaussians and grows the branch by at most `config.growth`; returns how many are new.

    Args:
        score: how badly the picture wants more detail at each Gaussian, >= 0.
    """
    opacity = torch.sigmoid(branch.opacity_logits)
    dead = torch.nonzero(opacity < config.dead_opacity).flatten()
    alive = torch.nonzero(opacity >= config.dead_opacity).flatten()
    grow = max(0, min(budget, int(branch.count * config.growth)) - branch.count)
    wanted = min(len(dead) + grow, len(alive))
    likely = score[alive].clamp_min(1e-12)
    if wanted == 0 or not bool(torch.isfinite(likely).all()):
        return 0
    parents = alive[torch.multinomial(likely.cpu(), wanted, replacement=False, generator=generator).to(alive.device)]
    reused = dead[:wanted]
    kept = torch.arange(branch.count, device=parents.device)
    kept[reused] = parents[: len(reused)]
    index = torch.cat([kept, parents[len(reused) :]])  # row i of the new branch starts as row index[i]
    added = torch.arange(branch.count, len(index), device=parents.device)
    fresh = torch.cat([parents, reused, added])
    spread = _drawn_offsets(branch, parents, generator)
    resize(branch, optimizer, index, fresh)
    children = torch.cat([reused, added])
    branch.means[parents] += spread
    branch.means[children] -= spread
    branch.log_scales[fresh] -= torch.log(torch.tensor(SPLIT_SHRINK))
    return wanted


def _drawn_offsets(branch: Branch, rows: Int[Tensor, " M"], generator: torch.Generator) -> Float[Tensor, "M 3"]:
    """Offsets drawn from the Gaussians' own distribution (rotation w, x, y, z applied to scaled normals)."""
    normal = torch.randn(len(rows), 3, generator=generator).to(branch.means)
    local = normal * torch.exp(branch.log_scales[rows]) / SPLIT_SHRINK
    q = nn.functional.normalize(branch.quats[rows], dim=-1)
    w, v = q[:, :1], q[:, 1:]
    twice = 2 * torch.cross(v, local, dim=-1)
    return local + w * twice + torch.cross(v, twice, dim=-1)


def resize(
    branch: Branch, optimizer: torch.optim.Optimizer, index: Int[Tensor, " M"], fresh: Int[Tensor, " F"]
) -> None:
    """Rows of all parameters become `old[index]`; Adam's moments follow, and are forgotten for `fresh` rows."""
    for name in (*CANONICAL, "bases"):
        old = getattr(branch, name)
        dim = 1 if name == "bases" else 0
        new = nn.Parameter(old.detach().index_select(dim, index))
        state = optimizer.state.pop(old, None)
        if state:
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key].index_select(dim, index).index_fill(dim, fresh, 0.0)
            optimizer.state[new] = state
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        setattr(branch, name, new)
