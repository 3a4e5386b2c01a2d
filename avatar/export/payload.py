"""How the player's numbers are stored: one owner of the wire format; ``modules/load.js`` of the player mirrors it.

A tensor is a little-endian array of TYPES, its bytes sorted into planes (all first bytes, then all second bytes, ...;
high bytes repeat, so they compress), then one zlib stream (RFC 1950, whose checksum guards it). Tensors follow each
other in a file; the manifest's ``tensors`` says for each its file, offset, length, type and shape. Integers stand for
``integer * scale``, with the scale in a tensor of its own named ``NAME.scale`` (float32, one per column or per basis
and column).
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np

TYPES: Final = {"int8": np.dtype("<i1"), "int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
"""Element types, by their name in the manifest."""
_LEVEL: Final = 9


class Payload:
    """Binary files under construction, and the manifest's table of what is where in them."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.tensors: dict[str, dict[str, Any]] = {}

    def add(self, file: str, name: str, values: np.ndarray) -> None:
        """Appends a tensor of any shape to a file.

        Raises:
            ValueError: a name that is taken, a type that is not one of TYPES, or a value that is not finite.
        """
        kind = next((k for k, t in TYPES.items() if t == values.dtype.newbyteorder("<")), None)
        if kind is None or name in self.tensors:
            raise ValueError(f"tensor {name}: type {values.dtype} cannot be stored, or the name is taken")
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} holds values that are not finite")
        packed = pack(values)
        body = self.files.setdefault(file, bytearray())
        entry = {"file": file, "offset": len(body), "bytes": len(packed), "type": kind, "shape": list(values.shape)}
        self.tensors[name] = entry
        body += packed

    def add_quantised(self, file: str, name: str, values: np.ndarray, steps: np.ndarray | float, kind: str) -> None:
        """Appends real numbers as integers of type `kind`, in the given steps or coarser ones where the range needs it.

        Args:
            values: (N, C) columns; stored as (C, N).
            steps: one for all columns, or (C,).
        """
        columns = np.ascontiguousarray(values.T, np.float64)
        limit = np.iinfo(TYPES[kind]).max
        scale = np.maximum(steps, np.abs(columns).max(axis=1, initial=0.0) / limit).astype(np.float32)
        self.add(file, name, np.round(columns / scale[:, None]).clip(-limit, limit).astype(TYPES[kind]))
        self.add(file, f"{name}.scale", scale)


def pack(values: np.ndarray) -> bytes:
    """Byte planes, compressed."""
    size = values.dtype.itemsize
    flat = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1)
    return zlib.compress(flat.view(np.uint8).reshape(-1, size).T.tobytes(), _LEVEL)


def unpack(packed: bytes, entry: dict[str, Any]) -> np.ndarray:
    """The inverse of `pack`, with type and shape from the manifest's table; for tests and for readers in Python."""
    kind = TYPES[entry["type"]]
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(entry["shape"])
