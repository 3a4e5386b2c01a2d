"""The network: causal but for its look-ahead, the same streamed as in one go, at rest in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.speech.model import (
    COLUMNS_PER_TOKEN,
    SILENCE,
    SpeechModel,
    SpeechModelConfig,
    pad_with_silence,
    token_times,
)

CONFIG = SpeechModelConfig(members=2, width=16, heads=2, memory_size=5)


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    """Random weights everywhere, so that every path matters."""
    generator = torch.Generator().manual_seed(0)
    model = SpeechModel(CONFIG).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
        model.memory.centres.copy_(torch.randn(model.memory.centres.shape, generator=generator))
        model.memory.weight.copy_(torch.randn(model.memory.weight.shape, generator=generator))
        model.memory.directions.mul_(0.1)
        model.low.fill_(-100.0)
        model.high.fill_(100.0)
        model.rest.fill_(0.25)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    return torch.randn(2, 150, CONFIG.n_mels, generator=torch.Generator().manual_seed(1)) * 2 - 5


def test_an_untrained_model_says_the_mean(mel: torch.Tensor) -> None:
    fresh = SpeechModel(CONFIG).eval()
    fresh.target_mean.fill_(0.3)
    fresh.rest.fill_(0.3)
    assert torch.allclose(fresh(mel), torch.tensor(0.3), atol=1e-6)


def test_sound_beyond_the_look_ahead_changes_nothing(model: SpeechModel, mel: torch.Tensor) -> None:
    changed = mel.clone()
    changed[:, 100:] += 3.0
    difference = (model(changed) - model(mel)).abs().amax(dim=(0, 2))
    first = 100 // COLUMNS_PER_TOKEN - CONFIG.look_ahead_tokens
    assert difference[:first].max() < 1e-6
    assert difference[first] > 1e-3  # and the look-ahead is used


@pytest.mark.parametrize("chunks", [(2,) * 200, (6, 2, 40, 100, 2, 64), (1000,)])
def test_streaming_equals_offline(model: SpeechModel, mel: torch.Tensor, chunks: tuple[int, ...]) -> None:
    whole = model(mel)
    padded, state, at, parts = pad_with_silence(mel, CONFIG.look_ahead_tokens), model.initial_state(2), 0, []
    for chunk in chunks:
        if at < padded.shape[1]:
            mouth, state = model.step(padded[:, at : at + chunk], state)
            parts.append(mouth)
            at += chunk
    streamed = torch.cat(parts, dim=1)[:, CONFIG.look_ahead_tokens :]
    assert streamed.shape == whole.shape
    assert (streamed - whole).abs().max() < 1e-4  # worst seen 4e-6


def test_the_past_is_bounded(model: SpeechModel) -> None:
    """An hour sounds like its first minute: far past sound has no influence."""
    long = torch.randn(1, 800, CONFIG.n_mels, generator=torch.Generator().manual_seed(2)) * 2 - 5
    other = long.clone()
    other[:, :200] += 2.0
    reach = CONFIG.layers * CONFIG.context_tokens + CONFIG.stem_tokens + CONFIG.memory_tokens
    a, b = model(long)[:, 100 + reach :], model(other)[:, 100 + reach :]
    assert a.shape[1] > 100
    assert (a - b).abs().max() < 1e-5


def test_silence_brings_the_mouth_to_rest(model: SpeechModel, mel: torch.Tensor) -> None:
    quiet = mel.clone()
    quiet[:, 50:130] = SILENCE
    mouth = model(quiet)
    assert torch.equal(mouth[:, 50:58], torch.full_like(mouth[:, 50:58], 0.25))
    assert (mouth[:, :20] - 0.25).abs().mean() > 0.05
    # No jump on the way: the gate is a ramp.
    assert (mouth[:, 26:50] - 0.25).abs().amax(dim=(0, 2)).diff().max() < 10


def test_outputs_stay_in_the_plausible_range(mel: torch.Tensor) -> None:
    model = SpeechModel(CONFIG).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=5.0)
    model.low.fill_(0.1)
    model.high.fill_(0.4)
    model.rest.fill_(0.2)
    mouth = model(mel * 10 + 50)
    assert mouth.min() >= 0.1 - 1e-6
    assert mouth.max() <= 0.4 + 1e-6
    assert mouth.std() > 0.05


def test_config_and_weights_rebuild_the_model(model: SpeechModel, mel: torch.Tensor) -> None:
    again = SpeechModel.from_config(model.config_dict())
    again.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    assert torch.equal(again(mel), model(mel))
    assert all(isinstance(v, int | float) for v in model.config_dict().values())
    with pytest.raises(ValueError, match="colour"):
        SpeechModel.from_config({"colour": 3})
    with pytest.raises(ValueError, match="look_ahead"):
        SpeechModelConfig(look_ahead_tokens=7)


def test_files_of_before_lips_were_shut_say_what_they_said(model: SpeechModel, mel: torch.Tensor) -> None:
    numbers = {**model.config_dict(), "memory_rank": 0}
    now = SpeechModel.from_config(numbers)
    centres = torch.randn(CONFIG.memory_size, len(now.memory.mean), generator=torch.Generator().manual_seed(3))
    new = {"memory.centres": centres, "memory.directions": 0.1 * torch.eye(len(now.memory.mean))}
    now.load_state_dict({k: v.clone() for k, v in model.state_dict().items()} | new)
    held = {k: v.clone() for k, v in now.state_dict().items() if not k.startswith(("closing", "closed"))}
    del held["memory.directions"]
    held["memory.scale"] = torch.tensor(0.1)
    for name in ("memory.weight", "memory.bias"):
        held[name] = held[name][..., :-1]
    then = SpeechModel.from_config({k: v for k, v in numbers.items() if k != "memory_rank"})
    then.load_state_dict(held)
    assert torch.equal(then(mel), now(mel))


def test_sure_closings_shut_the_lips_and_never_open_them(model: SpeechModel, mel: torch.Tensor) -> None:
    shut = SpeechModel.from_config(model.config_dict())
    shut.load_state_dict(model.state_dict())
    shut.closing[0], shut.closing[1] = -1.0, 1.0  # the first coefficient falls to its closed value, the second rises
    shut.closed[:2] = torch.tensor([-5.0, 5.0])
    shut.memory.weight[:, -1] = 0.0
    shut.memory.bias[-1], shut.closing_from.data, shut.closing_to.data = 0.6, torch.tensor(0.5), torch.tensor(0.7)
    before, after = model(mel), shut(mel)
    inside = (before != 0.25).any(-1) & (mel.mean(-1)[:, ::2] > CONFIG.gate_open)  # the gate is open
    half = 0.5 * (shut.closed[:2] - before[..., :2])
    pulled = before[..., :2] + torch.stack([half[..., 0].clamp(max=0), half[..., 1].clamp(min=0)], dim=-1)
    assert inside.float().mean() > 0.9
    assert torch.allclose(after[inside][:, :2], pulled[inside], atol=1e-3)
    assert torch.equal(after[..., 2:], before[..., 2:])
    assert (after[..., 0] - before[..., 0]).min() < -0.5


def test_latency_is_what_is_promised() -> None:
    assert SpeechModel(SpeechModelConfig()).latency_seconds <= 0.160


def test_token_times_are_between_their_columns() -> None:
    columns = 1.0 + np.arange(7) * 0.01
    np.testing.assert_allclose(token_times(columns), [1.005, 1.025, 1.045, 1.065])
