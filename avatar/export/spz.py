"""SPZ version 3, Niantic's compressed splat format (public specification: github.com/nianticlabs/spz, README).

A gzip stream: a header of 16 bytes, then each attribute of all Gaussians in turn.

===========  ======================================================================================================
header       u32 magic "NGSP", u32 version 3, u32 count, u8 SH degree 0, u8 fractional bits, u8 flags 0, u8 reserved
positions    3 x 24-bit signed fixed point, little-endian, in m; x right, y up, z back
alphas       u8, opacity * 255
colours      3 x u8, (f_dc * 0.15 + 0.5) * 255
scales       3 x u8, (natural log of m + 10) * 16
rotations    u32: 2 bits which of xyzw is largest, then sign and 9-bit size of the other three in units of sqrt(1/2)
===========  ======================================================================================================
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from avatar.errors import UserError
from avatar.export.options import ExportOptions
from avatar.export.splats import Splats, coefficients_of, splats
from avatar.files import replacing
from avatar.model import Avatar

MAGIC, VERSION = b"NGSP", 3
FRACTIONAL_BITS = (16, 20)
"""Fewest and most. 16 bits are 15 micrometres and reach 128 m; 20 bits are 1 micrometre and reach 8 m."""
COLOR_SCALE = 0.15
SMALL_STEPS = 511
"""Steps of a component between 0 and sqrt(1/2), the largest that a component which is not the largest can be."""


def export_spz(avatar: Avatar, folder: Path, options: ExportOptions) -> list[Path]:
    """Writes ``NAME.spz`` with the avatar frozen in one expression; Gaussians keep their order.

    Raises:
        UserError: the folder cannot be written, or a Gaussian lies too far out for the format.
    """
    path = folder / f"{options.name}.spz"
    content = spz_bytes(splats(avatar, coefficients_of(avatar, options.coefficients)))
    with replacing(path) as partial:
        partial.write_bytes(content)
    return [path]


def spz_bytes(gaussians: Splats) -> bytes:
    """The file's content; the same for the same Gaussians (no time stamp).

    Raises:
        UserError: a Gaussian more than 127 m from the head.
    """
    bits = fractional_bits(gaussians.means)
    header = MAGIC + struct.pack("<IIBBBB", VERSION, len(gaussians), 0, bits, 0, 0)
    body = (
        _fixed_point(gaussians.means, bits),
        _bytes(gaussians.opacities * 255),
        _bytes((gaussians.sh_dc * COLOR_SCALE + 0.5) * 255),
        _bytes((gaussians.log_scales + 10) * 16),
        _smallest_three(gaussians.quats),
    )
    return gzip.compress(header + b"".join(part.tobytes() for part in body), mtime=0)


def fractional_bits(means: Float32[np.ndarray, "N 3"]) -> int:
    """As many as let the outermost Gaussian fit into 24 signed bits.

    Raises:
        UserError: fewer than 16.
    """
    fewest, most = FRACTIONAL_BITS
    largest = float(np.abs(means).max(initial=0.0))
    for bits in range(most, fewest - 1, -1):
        if largest * 2**bits < 2**23 - 1:
            return bits
    raise UserError(f"A Gaussian lies {largest:.0f} m from the head, too far for an SPZ file; export PLY instead.")


def _fixed_point(values: Float32[np.ndarray, "N 3"], bits: int) -> UInt8[np.ndarray, "N 3 3"]:
    whole = np.round(values.astype(np.float64) * 2**bits).astype("<i4")
    return whole[..., None].view(np.uint8)[..., :3]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(values).clip(0, 255).astype(np.uint8)


def _smallest_three(quats: Float32[np.ndarray, "N 4"]) -> np.ndarray:
    """Unit quaternions (wxyz) as one u32 each; q and -q are one rotation, so the largest is made positive."""
    xyzw = np.roll(quats.astype(np.float64), -1, axis=1)
    rows, largest = np.arange(len(xyzw)), np.abs(xyzw).argmax(axis=1)
    xyzw *= np.where(xyzw[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.array([[c for c in range(4) if c != skip] for skip in range(4)])[largest]
    small = np.take_along_axis(xyzw, others, axis=1)
    steps = np.round(np.abs(small) * np.sqrt(2) * SMALL_STEPS).clip(0, SMALL_STEPS).astype(np.uint32)
    packed = largest.astype(np.uint32)
    for component in range(3):
        sign = (small[:, component] < 0).astype(np.uint32)
        packed = packed << np.uint32(10) | sign << np.uint32(9) | steps[:, component]
    return packed.astype("<u4")
