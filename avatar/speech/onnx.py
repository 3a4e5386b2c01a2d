"""The speech model's step as an ONNX graph, for players that have no PyTorch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avatar.conventions import MOUTH_BLENDSHAPES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.files import replacing
from avatar.speech.features import FLOOR, HOP, N_FFT
from avatar.speech.hearing import hearing_settings
from avatar.speech.model import COLUMNS_PER_TOKEN, SILENCE, TOKEN_RATE, SpeechModel, StreamState

INPUTS = ("log_mel", "columns", "keys", "values", "seen")
OUTPUTS = ("mouth", "next_columns", "next_keys", "next_values", "next_seen")
OPSET = 18


class _Step(nn.Module):
    """One token with its state as plain tensors."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, log_mel: Tensor, columns: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> tuple:
        mouth, after = self.model.step(log_mel, StreamState(columns, keys, values, seen))
        return mouth, after.columns, after.keys, after.values, after.seen


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Torch's exporter reports on libraries that are not needed here; only its errors are let through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def speech_onnx_description(model: SpeechModel) -> dict[str, Any]:
    """Everything that runs the graph of `export_speech_onnx` needs to know, as plain JSON.

    Log-mel: mono sound at ``sample_rate``; a column every ``hop`` samples from the ``n_fft`` newest ones (silence
    before the first), periodic Hann window, squared magnitude of the real transform, through ``n_mels`` triangles over
    its ``n_fft / 2 + 1`` bins (`features.mel_filterbank`: Slaney's scale and area normalisation, 0 Hz to
    ``sample_rate / 2``), natural logarithm of that plus ``floor``. Nothing is normalised: the graph does it.

    Graph: ``inputs`` and ``outputs`` by name and shape, float32 but for ``seen``, an int64 scalar. ``log_mel`` takes
    ``columns_per_token`` new columns; every ``next_NAME`` goes back in as ``NAME``. ``start``: the value that fills
    each state before the first step.

    Time: a step's ``mouth`` (in the order of ``coefficients``, each 0..1) belongs to the sound ``look_ahead_tokens``
    steps before: drop that many outputs at the start, and feed that many steps of silence (``silence`` in every band)
    to get the last ones. Tokens come ``token_rate`` times a second; token k of the mouth is at
    ``first_token_seconds + k / token_rate`` after the first sample. ``rest`` is the mouth in silence.

    Before the graph, ``hearing`` brings columns to the person's own level and colour, and after it tells when the mouth
    rests: the numbers of `hearing.Hearing`, times in tokens.
    """
    c, state = model.config, model.initial_state()
    states = {"columns": state.columns, "keys": state.keys, "values": state.values, "seen": state.seen}
    return {
        "sample_rate": SAMPLE_RATE,
        "n_fft": N_FFT,
        "hop": HOP,
        "n_mels": c.n_mels,
        "floor": FLOOR,
        "silence": SILENCE,
        "columns_per_token": COLUMNS_PER_TOKEN,
        "token_rate": TOKEN_RATE,
        "first_token_seconds": (HOP * (COLUMNS_PER_TOKEN + 1) / 2 - N_FFT / 2) / SAMPLE_RATE,
        "look_ahead_tokens": c.look_ahead_tokens,
        "inputs": {"log_mel": [1, COLUMNS_PER_TOKEN, c.n_mels]} | {n: list(v.shape) for n, v in states.items()},
        "outputs": {"mouth": [1, 1, c.outputs]} | {f"next_{n}": list(v.shape) for n, v in states.items()},
        "start": {"columns": float(state.columns.flatten()[0]), "keys": 0.0, "values": 0.0, "seen": 0},
        "coefficients": list(MOUTH_BLENDSHAPES),
        "rest": [round(float(v), 5) for v in model.rest],
        "hearing": hearing_settings(model),
    }


def export_speech_onnx(model: SpeechModel, path: Path) -> dict[str, Any]:
    """Writes one streaming step (20 ms of sound) with its cache; returns `speech_onnx_description`.

    Inputs ``log_mel`` (1, 2, n_mels), ``columns`` (1, H, n_mels), ``keys`` and ``values`` (layers, members, 1, heads,
    context - 1, channels), ``seen`` (); outputs ``mouth`` (1, 1, 28) and ``next_`` each state. The description, with
    the exact shapes, is also the graph's metadata ``avatar_speech``.

    Raises:
        UserError: the package's `onnx` extra is not installed, or `path` cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and fails late without
    except ImportError as error:
        raise UserError(f"Writing ONNX needs {error.name}; install it with: pip install 'avatar[onnx]'") from error
    description = speech_onnx_description(model)
    state = model.initial_state()
    log_mel = torch.full((1, COLUMNS_PER_TOKEN, model.config.n_mels), SILENCE)
    arguments = (log_mel, state.columns, state.keys, state.values, state.seen)
    with warnings.catch_warnings(), quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(model).eval(), arguments, input_names=list(INPUTS), output_names=list(OUTPUTS),
            opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"avatar_speech": json.dumps(description)})
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return description
