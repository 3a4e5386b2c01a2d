"""A pretrained speech encoder (HuBERT, wav2vec 2.0, WavLM) whose weights lie in a folder of the user's.

Hsu et al. 2021; Baevski et al. 2020; Chen et al. 2022. Such an encoder has heard a thousand hours of many people, where
a clip holds minutes of one. It is never required and never fetched: the folder is one that ``transformers`` wrote
(``save_pretrained``: config.json and safetensors), and nothing is run that comes with it.

An encoder hears a whole utterance at once and has no notion of latency. Here it hears windows of a second, each for
the BLOCK_TOKENS tokens that end AHEAD_TOKENS before its end. The windows lie at fixed places of the sound, so a stream
and a file give the same numbers, and no mouth waits longer for them than for its log-mel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError

from avatar.capture import clip_sha256 as sha256_of
from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError, one_line
from avatar.progress import SILENT, Reporter
from avatar.speech.features import HOP
from avatar.speech.model import COLUMNS_PER_TOKEN, TOKEN_RATE

KINDS = ("hubert", "wav2vec2", "wavlm")
TOKEN_SAMPLES = COLUMNS_PER_TOKEN * HOP
"""Samples from one of its vectors to the next: as many as a token of log-mel has."""
PAST_TOKENS, BLOCK_TOKENS, AHEAD_TOKENS = 44, 3, 3
WINDOW_SAMPLES = (PAST_TOKENS + BLOCK_TOKENS + AHEAD_TOKENS) * TOKEN_SAMPLES
PAIR = 2
"""Tokens whose vectors are averaged for a mouth: its own and the next, 12 and 32 ms after it."""
DEPTH = 0.75
"""Share of its layers that are used; what comes after them is less about sounds (Pasad, Chou and Livescu 2021)."""
WINDOWS_AT_ONCE = 16
LEAST_SPREAD = 0.01
"""Windows are brought to unit spread, as such encoders were trained, but for those as quiet as this (-40 dBFS)."""


@dataclass(frozen=True)
class SpeechEncoder:
    """Weights, ready to hear windows."""

    name: str
    """Of its folder."""
    sha256: str
    """Of its configuration and weights."""
    width: int
    """Numbers per token."""
    network: torch.nn.Module
    """From windows (B, S) to vectors (B, tokens, W)."""
    device: str = "cpu"

    @torch.inference_mode()
    def hear(self, windows: Float32[np.ndarray, "B S"]) -> Float32[np.ndarray, "B 3 W"]:
        """Vectors of the BLOCK_TOKENS tokens of each window of WINDOW_SAMPLES."""
        out = self.network(torch.from_numpy(windows.copy()).to(self.device))
        return out[:, PAST_TOKENS : PAST_TOKENS + BLOCK_TOKENS].float().cpu().numpy()


class _Levelled(torch.nn.Module):
    """A network of transformers, given sound of unit spread."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Float[torch.Tensor, "B S"]) -> Float[torch.Tensor, "B n W"]:
        variance, mean = torch.var_mean(windows, dim=1, keepdim=True, correction=0)
        return self.network((windows - mean) / (variance + LEAST_SPREAD**2).sqrt()).last_hidden_state


def load_encoder(folder: Path, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Reads an encoder, which will compute on `device`.

    Raises:
        UserError: ``transformers`` is not installed, or the folder does not hold an encoder of KINDS in safetensors.
    """
    files = _files(folder)
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging
    except ImportError:
        raise UserError("A speech encoder needs the package transformers: pip install 'avatar[encoder]'.") from None
    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # of what a checkpoint holds besides, such as a recogniser's last layer
    logging.disable_progress_bar()
    try:
        settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_kind(folder, settings)
        network: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The speech encoder in {folder} cannot be read: {one_line(error)}.") from error
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()
    layers = network.encoder.layers
    network.encoder.layers = layers[: max(1, round(DEPTH * len(layers)))]
    levelled = _Levelled(network).eval().requires_grad_(False).to(device)
    return SpeechEncoder(folder.name, _digest(files), int(settings.hidden_size), levelled, str(device))


def _files(folder: Path) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"There is no speech encoder in {folder}: give a folder with config.json and model.safetensors of a"
            f" {', '.join(KINDS[:-1])} or {KINDS[-1]} model."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"The speech encoder in {folder} has no .safetensors file; open it with transformers where you trust it"
            f" and write it again with save_pretrained()."
        )
    return [folder / "config.json", *weights]


def _check_kind(folder: Path, settings: Any) -> None:
    if settings.model_type not in KINDS:
        raise UserError(
            f"{folder} holds a model of kind '{settings.model_type}'; a speech encoder is one of {', '.join(KINDS)}."
        )
    if int(np.prod(settings.conv_stride)) != TOKEN_SAMPLES:
        raise UserError(f"The speech encoder in {folder} does not have {TOKEN_RATE:g} vectors a second.")


def _digest(files: list[Path]) -> str:
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


class EncoderStream:
    """What a mouth hears through an encoder, token by token, of sound that comes in pieces of any size."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self._pending = np.zeros(PAST_TOKENS * TOKEN_SAMPLES, np.float32)
        self._last = np.zeros((0, encoder.width), np.float32)  # waits for the token after it

    def push(self, samples: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "n W"]:
        """The tokens that these samples complete, of 16 kHz mono in -1..1; possibly none."""
        pending = np.concatenate([self._pending, samples])
        step = BLOCK_TOKENS * TOKEN_SAMPLES
        count = max(0, (len(pending) - WINDOW_SAMPLES) // step + 1)
        self._pending = pending[count * step :]
        if count == 0:
            return np.zeros((0, self._encoder.width), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(pending, WINDOW_SAMPLES)[: count * step : step]
        parts = [self._encoder.hear(windows[i : i + WINDOWS_AT_ONCE]) for i in range(0, count, WINDOWS_AT_ONCE)]
        heard = np.concatenate([self._last, np.concatenate(parts).reshape(-1, self._encoder.width)])
        self._last = heard[1 - PAIR :]
        return np.lib.stride_tricks.sliding_window_view(heard, PAIR, axis=0).mean(axis=-1)

    def finish(self) -> Float32[np.ndarray, "n W"]:
        """The tokens that are left, and some of the silence after them."""
        return self.push(np.zeros(WINDOW_SAMPLES, np.float32))


def encoded_sound(
    encoder: SpeechEncoder, samples: Float32[np.ndarray, " S"], reporter: Reporter = SILENT
) -> Float32[np.ndarray, "n W"]:
    """A whole sound as a stream hears it, one row for each of its ceil(S / TOKEN_SAMPLES) tokens."""
    stream, parts = EncoderStream(encoder), []
    with reporter.bar(f"hearing the clip through {encoder.name}", -(-len(samples) // SAMPLE_RATE)) as bar:
        for start in range(0, len(samples), SAMPLE_RATE):
            parts.append(stream.push(samples[start : start + SAMPLE_RATE]))
            bar.advance()
    return np.concatenate([*parts, stream.finish()])[: -(-len(samples) // TOKEN_SAMPLES)]
