"""PLY in the layout of the 3D Gaussian Splatting reference (Kerbl et al. 2023), which splat editors and viewers open.

Binary little-endian float32, one row per Gaussian: x y z, nx ny nz (unused, 0), f_dc_0..2, opacity (logit),
scale_0..2 (natural log, m), rot_0..3 (wxyz). No f_rest: colours do not depend on the view. Axes as COLMAP's, which
such files use: x right, y down, z forward.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.export.options import ExportOptions
from avatar.export.splats import Splats, coefficients_of, splats
from avatar.files import replacing
from avatar.model import Avatar

COLUMNS = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
TO_RDF = np.array([1, -1, -1], np.float32)
"""Right-up-back to right-down-forward: half a turn about x."""
TURN_QUAT = np.array([1, 1, -1, -1], np.float32)
"""The same for wxyz: conjugating by half a turn about x flips the sign of y and z."""


def export_ply(avatar: Avatar, folder: Path, options: ExportOptions) -> list[Path]:
    """Writes ``NAME.ply`` with the avatar frozen in one expression; Gaussians keep their order.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / f"{options.name}.ply"
    with replacing(path) as partial:
        partial.write_bytes(ply_bytes(splats(avatar, coefficients_of(avatar, options.coefficients))))
    return [path]


def ply_bytes(gaussians: Splats) -> bytes:
    """The file's content."""
    rows = np.concatenate(
        [
            gaussians.means * TO_RDF,
            np.zeros((len(gaussians), 3), np.float32),
            gaussians.sh_dc,
            gaussians.opacity_logits[:, None],
            gaussians.log_scales,
            gaussians.quats * TURN_QUAT,
        ],
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in COLUMNS]
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + rows.astype("<f4").tobytes()
