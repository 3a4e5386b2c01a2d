"""Small dense least-squares systems in batches.

NumPy's BLAS starts its threads anew for every little matrix; where other processes want the cores too that takes
20 times as long as PyTorch's batched routines.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float


def solve(matrix: Float[np.ndarray, "*b n n"], right: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b n"]:
    """x with matrix @ x = right.

    Raises:
        RuntimeError: a matrix is singular.
    """
    return torch.linalg.solve(torch.from_numpy(matrix), torch.from_numpy(right)).numpy()


def normal_equations(
    jacobian: Float[np.ndarray, "b e p"], weight: Float[np.ndarray, "b e"], residual: Float[np.ndarray, "b e"]
) -> tuple[Float[np.ndarray, "b p p"], Float[np.ndarray, "b p"]]:
    """J^T W J and J^T W r of weighted least-squares problems."""
    slope = torch.from_numpy(jacobian)
    weighted = slope * torch.from_numpy(weight)[..., None]
    normal = weighted.transpose(1, 2) @ slope
    gradient = (torch.from_numpy(residual)[:, None] @ weighted)[:, 0]
    return normal.numpy(), gradient.numpy()


def geman_mcclure(squared):
    """Influence 0..1 of residuals, given their squares over that of the distance at which they lose it."""
    return 1 / (1 + squared) ** 2


def square(matrix: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n n"]:
    """matrix @ matrix^T in double precision, half of it computed and mirrored."""
    from scipy.linalg.blas import dsyrk

    half = dsyrk(1.0, matrix) if matrix.flags.f_contiguous else dsyrk(1.0, matrix.T, trans=1)
    return half + np.triu(half, 1).T
