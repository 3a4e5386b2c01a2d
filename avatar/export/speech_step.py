"""The speech model for the player: one step as ONNX, and what the player must know to run it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.speech import SpeechModel


def speech_step(model: SpeechModel) -> tuple[bytes, dict[str, Any]]:
    """The graph, and its description (`avatar.speech.onnx`) with the places of its outputs among the 52.

    Raises:
        UserError: the package's `onnx` extra is not installed.
    """
    from avatar.speech.onnx import export_speech_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.onnx"
        description = export_speech_onnx(model, path)
        return path.read_bytes(), description | {
            "coefficient_indices": [BLENDSHAPE_INDEX[name] for name in description["coefficients"]]
        }
