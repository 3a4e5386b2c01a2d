"""Multi-resolution hash encoding of positions on three planes.

A position's xy, yz and xz projections are each looked up in grids of growing resolution, whose corners share a table
of learned features by a spatial hash (Müller et al. 2022, section 3); the three planes instead of one volume are
ER-NeRF's (Li et al. 2023, section 3.2), which lets a small table describe a surface without most of its collisions.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

PLANES = ((0, 1), (1, 2), (0, 2))
LEVELS = 8
FEATURES = 2
"""Learned numbers per corner."""
COARSEST, FINEST = 16, 256
"""Cells across the box at the first and last level; the last is a millimetre on a head and shoulders."""
LOG2_ROWS = 14
"""Rows of the table per plane and level. Coarse levels fit without collisions."""
HASH_PRIME = 2654435761 - 2**32
"""Müller et al. 2022, equation 4, as a 32-bit integer (products wrap); the first axis is multiplied by 1."""
START_RANGE = 1e-4
"""Features start uniform in +- this (same, section 4)."""
ENCODING_WIDTH = len(PLANES) * LEVELS * FEATURES
_GROWTH = (FINEST / COARSEST) ** (1 / (LEVELS - 1))


class TriPlaneHash(nn.Module):
    """The encoding in plain PyTorch, differentiable in the table and the positions."""

    cells: Tensor
    stride: Tensor
    first_row: Tensor

    def __init__(self) -> None:
        super().__init__()
        rows = 2**LOG2_ROWS
        self.table = nn.Parameter(
            torch.empty(len(PLANES) * LEVELS * rows, FEATURES).uniform_(-START_RANGE, START_RANGE)
        )
        cells = [round(COARSEST * _GROWTH**level) for level in range(LEVELS)]
        self.counted = sum((across + 1) ** 2 <= rows for across in cells)
        """So many levels, the coarsest, have no more corners than rows and need no hash."""
        stride = [across + 1 for across in cells[: self.counted]] + [HASH_PRIME] * (LEVELS - self.counted)
        first = torch.arange(len(PLANES) * LEVELS, dtype=torch.int32).view(len(PLANES), LEVELS, 1, 1) * rows
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.int32), persistent=False)
        self.register_buffer("stride", torch.tensor(stride, dtype=torch.int32), persistent=False)
        self.register_buffer("first_row", first, persistent=False)

    def forward(self, positions: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """Features of positions in the unit cube (those outside count as on its surface); E is ENCODING_WIDTH."""
        projected = torch.stack([positions[:, list(axes)] for axes in PLANES], dim=1).clamp(0, 1)
        scaled = projected[..., None] * self.cells  # (N, planes, 2, levels)
        cell = torch.minimum(scaled.detach().to(torch.int32), self.cells - 1)
        fraction = scaled - cell
        share = torch.stack([1 - fraction, fraction], dim=-1)
        shares = share[:, :, 1, :, :, None] * share[:, :, 0, :, None, :]  # (N, planes, levels, 2 of y, 2 of x)
        blended = _BlendRows.apply(self.table, self._rows(cell).view(-1, 4), shares.view(-1, 4))
        return blended.view(len(positions), ENCODING_WIDTH)

    def _rows(self, cell: Int[Tensor, "N P 2 L"]) -> Int[Tensor, "N P L 2 2"]:
        """Table rows of a cell's corners: counted through on coarse levels, hashed on fine ones."""
        corner = torch.stack([cell, cell + 1], dim=-1)
        x, y = corner[:, :, 0, :, None, :], (corner[:, :, 1] * self.stride[:, None])[..., None]
        n = self.counted
        hashed = (x[:, :, n:] ^ y[:, :, n:]) & (2**LOG2_ROWS - 1)
        return torch.cat([x[:, :, :n] + y[:, :, :n], hashed], dim=2) + self.first_row


class _BlendRows(torch.autograd.Function):
    """Weighted sums of table rows. PyTorch's own `embedding_bag` does the same, but its gradient for the table was
    25 times slower on a CPU (one thread, 1.3 million rows) than adding up one feature at a time."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, shares)
        return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, shares = ctx.saved_tensors
        (grad,) = grads
        v_table = v_shares = None
        if ctx.needs_input_grad[0]:
            columns = [
                torch.bincount(rows.flatten(), (column[:, None] * shares).flatten(), minlength=len(table))
                for column in grad.unbind(-1)
            ]
            v_table = torch.stack(columns, dim=-1).to(table.dtype)
        if ctx.needs_input_grad[2]:
            v_shares = (table[rows] * grad[:, None]).sum(dim=-1)
        return v_table, None, v_shares


class TinyCudaTriPlane(nn.Module):
    """The same encoding by tiny-cuda-nn, one of its grids per plane; the tables are laid out differently, so that a
    run can only be resumed where it was started with or without that library."""

    def __init__(self) -> None:
        super().__init__()
        import tinycudann

        settings = {
            "otype": "HashGrid",
            "n_levels": LEVELS,
            "n_features_per_level": FEATURES,
            "log2_hashmap_size": LOG2_ROWS,
            "base_resolution": COARSEST,
            "per_level_scale": _GROWTH,
        }
        self.planes = nn.ModuleList(
            tinycudann.Encoding(2, settings, seed=plane, dtype=torch.float32) for plane in range(len(PLANES))
        )

    def forward(self, positions: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """As `TriPlaneHash`."""
        inside = positions.clamp(0, 1)
        parts = [plane(inside[:, list(axes)]) for plane, axes in zip(self.planes, PLANES, strict=True)]
        return torch.cat(parts, dim=-1)


def tri_plane(device: torch.device) -> TriPlaneHash | TinyCudaTriPlane:
    """The encoding for a device: tiny-cuda-nn's on a GPU where that is installed, PyTorch's otherwise."""
    if device.type == "cuda":
        try:
            return TinyCudaTriPlane().to(device)
        except (ImportError, OSError):  # not installed, or built for another GPU or PyTorch
            pass
    return TriPlaneHash().to(device)
