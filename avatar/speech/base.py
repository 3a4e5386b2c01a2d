"""The base that every person's speech model stands on: layers that know speech sounds, trained on synthetic voices.

`data/base.safetensors` is written by `scripts/pretrain_speech.py`; its metadata says from what. Tensors: the stem and
blocks of a `SpeechModel` of one member, float16. Owner of the format.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from avatar.files import save_tensors
from avatar.speech.model import SpeechModel

BASE_FILE = Path(__file__).resolve().parent / "data" / "base.safetensors"
FORMAT = "avatar-speech-base"
VERSION = 1
_SHARED = ("stem.", "blocks.")
_SHAPE = (
    "n_mels",
    "width",
    "layers",
    "heads",
    "stem_tokens",
    "context_tokens",
    "look_ahead_tokens",
    "mel_mean",
    "mel_std",
)
"""Settings that the weights depend on."""


def save_base(model: SpeechModel, path: Path, provenance: dict[str, str]) -> None:
    """Writes the layers that know speech, with the settings they depend on and where they come from."""
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items() if k.startswith(_SHARED)}
    settings = {k: v for k, v in asdict(model.config).items() if k in _SHAPE}
    header = {"format": FORMAT, "version": str(VERSION), "settings": json.dumps(settings)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, header | provenance)


@lru_cache(maxsize=1)
def base_weights() -> dict[str, Tensor]:
    """The shipped layers, float32, by their name in `SpeechModel`'s state."""
    with safe_open(str(BASE_FILE), framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)


@lru_cache(maxsize=1)
def base_settings() -> dict[str, float]:
    """The fields of `SpeechModelConfig` that the shipped layers were trained with."""
    with safe_open(str(BASE_FILE), framework="pt") as file:
        return json.loads(file.metadata()["settings"])
