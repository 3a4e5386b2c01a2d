"""The exported step says what PyTorch says, and its description is enough to run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.conventions import MOUTH_BLENDSHAPES
from avatar.speech.features import column_times
from avatar.speech.model import SpeechModel, SpeechModelConfig, token_times
from avatar.speech.onnx import export_speech_onnx, speech_onnx_description

TOLERANCE = 1e-4
"""Worst seen: 3e-7."""


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    torch.manual_seed(0)
    model = SpeechModel(SpeechModelConfig(width=32, layers=2, memory_size=20)).eval()
    with torch.no_grad():
        model.head.weight.normal_(0, 0.3)
        model.memory.centres.normal_(0, 1)
        model.memory.weight.normal_(0, 1)
        model.memory.directions.mul_(0.05)
        model.target_mean.fill_(0.3)
        model.target_std.fill_(0.1)
        model.rest.fill_(0.05)
        model.closing.fill_(-1.0)
    return model


def test_the_graph_says_what_pytorch_says(model: SpeechModel, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the onnx extra is not installed")
    import onnx
    import onnxruntime

    path = tmp_path / "speech.onnx"
    description = export_speech_onnx(model, path)
    props = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    assert json.loads(props["avatar_speech"]) == description
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {i.name: list(i.shape) for i in session.get_inputs()} == description["inputs"]
    assert {o.name: list(o.shape) for o in session.get_outputs()} == description["outputs"]

    rng = np.random.default_rng(0)
    loud = np.repeat(rng.uniform(0, 1, 12) > 0.3, 10)[:, None]  # with silences, so that the gate works too
    mel = np.where(loud, rng.normal(-5, 2, (120, 64)), description["silence"]).astype(np.float32)
    ahead = description["look_ahead_tokens"]
    padded = np.concatenate([mel, np.full((2 * ahead, 64), description["silence"], np.float32)])
    state = {
        name: np.full(description["inputs"][name], value, np.int64 if name == "seen" else np.float32)
        for name, value in description["start"].items()
    }
    said = []
    for k in range(0, len(padded), description["columns_per_token"]):
        mouth, *after = session.run(None, {"log_mel": padded[None, k : k + 2], **state})
        state = dict(zip(state, after, strict=True))
        said.append(mouth[0, 0])
    with torch.no_grad():
        expected = model(torch.from_numpy(mel)[None])[0].numpy()
    assert np.abs(np.stack(said)[ahead:] - expected).max() < TOLERANCE
    assert expected.std() > 0.01


def test_the_description_tells_the_features(model: SpeechModel) -> None:
    d = speech_onnx_description(model)
    assert d["first_token_seconds"] == pytest.approx(token_times(column_times(0, 4))[0])
    assert d["coefficients"] == list(MOUTH_BLENDSHAPES)
    assert d["look_ahead_tokens"] == model.config.look_ahead_tokens
    assert json.loads(json.dumps(d)) == d
