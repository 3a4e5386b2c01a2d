"""Lids: a blink brings along what this person's blinks bring along; open eyes and the clip's own motion stay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import BLENDSHAPE_INDEX
from avatar.dataset import FrameSet
from avatar.errors import UserError
from avatar.model import initial_model
from avatar.model.file import load_avatar_file
from avatar.model.lids import as_lids_close, measure_lids

SMALL = ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), driver_hidden=8)


def columns(*names: str) -> list[int]:
    return [BLENDSHAPE_INDEX[name + side] for name in names for side in ("Left", "Right")]


def blinking(frames: int = 300, shut: float = 0.6) -> np.ndarray:
    """Coefficients of someone who blinks once a second: lids down to `shut`, a glance down and a squint with them, a
    frame late; between the blinks the gaze wanders up and down."""
    random = np.random.default_rng(0)
    at = np.arange(frames)
    closing, late = (np.exp(-((((at - lag) % 25) - 12) ** 2) / 6.0) for lag in (0, 0.5))
    found = np.zeros((frames, 52), np.float32)
    found[:, columns("eyeBlink")] = (0.1 + (shut - 0.1) * closing)[:, None]
    found[:, columns("eyeLookDown")] = (0.15 * (1 + np.sin(at / 9.0)) * (1 - late) + 0.7 * late)[:, None]
    found[:, columns("eyeSquint")] = (0.2 + 0.3 * late)[:, None]
    found[:, columns("eyeLookUp")] = (0.15 * (1 - np.sin(at / 9.0)) * (1 - late))[:, None]
    return (found + random.normal(0, 0.005, found.shape)).clip(0, 1).astype(np.float32)


def slider(value: float, clip: np.ndarray, names: tuple[str, ...] = ("eyeBlink",)) -> torch.Tensor:
    """eyeBlink, and nothing else, moved from the clip's usual state."""
    state = np.median(clip, axis=0)
    state[columns(*names)] = value
    return torch.from_numpy(state[None].astype(np.float32))


def test_a_blink_brings_along_what_the_persons_blinks_do() -> None:
    clip = blinking()
    lids = measure_lids(torch.from_numpy(clip))
    assert lids is not None
    for value in (0.65, 1.0):
        closed = as_lids_close(slider(value, clip), lids)[0]
        assert closed[columns("eyeBlink")].numpy() == pytest.approx(clip[:, columns("eyeBlink")].max(0))
        assert 0.5 < float(closed[columns("eyeLookDown")].min()) < 0.75
        assert 0.4 < float(closed[columns("eyeSquint")].min()) < 0.55
        assert float(closed[columns("eyeLookUp")].max()) < 0.1
    half = as_lids_close(slider(0.35, clip), lids)[0]
    assert 0.25 < float(half[columns("eyeLookDown")].min()) < 0.45


def test_open_eyes_and_the_other_coefficients_are_left_alone() -> None:
    clip = blinking()
    lids = measure_lids(torch.from_numpy(clip))
    assert lids is not None
    random = torch.rand((50, 52), generator=torch.Generator().manual_seed(0))
    random[:, columns("eyeBlink")] = 0.05
    assert torch.equal(as_lids_close(random, lids), random)
    random[:, columns("eyeBlink")] = 0.5
    others = [i for i in range(52) if not any(i in columns(n) for n in ("eyeBlink", "eyeLookDown", "eyeLookIn",
              "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide"))]  # fmt: skip
    assert torch.equal(as_lids_close(random, lids)[:, others], random[:, others])
    one_sided = slider(0.1, clip)
    one_sided[0, BLENDSHAPE_INDEX["eyeBlinkLeft"]] = 0.6
    moved = (as_lids_close(one_sided, lids) - one_sided)[0]
    assert moved[BLENDSHAPE_INDEX["eyeLookDownLeft"]] > 0.3 and moved[BLENDSHAPE_INDEX["eyeLookDownRight"]] == 0


def test_the_clips_own_motion_nearly_passes() -> None:
    clip = torch.from_numpy(blinking())
    lids = measure_lids(clip)
    assert lids is not None
    change = (as_lids_close(clip, lids) - clip).abs()
    assert float(change.amax()) < 0.15 and float(change.mean()) < 1e-3


@pytest.mark.parametrize("shut,frames", [(0.2, 300), (0.6, 2)])
def test_a_clip_without_closed_eyes_leaves_all_as_it_comes(shut: float, frames: int) -> None:
    assert measure_lids(torch.from_numpy(blinking(shut=shut)[:frames])) is None


def test_gradients_agree_with_finite_differences() -> None:
    clip = blinking()
    lids = measure_lids(torch.from_numpy(clip))
    assert lids is not None
    states = torch.cat([slider(v, clip) for v in (0.05, 0.3, 0.5)]).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: as_lids_close(s, lids.double()), (states,))


@pytest.fixture()
def model(person):
    capture, track = person
    coefficients = track.coefficients.copy()
    eyes = np.unique([i for name in ("eyeBlink", "eyeLookDown", "eyeSquint", "eyeLookUp") for i in columns(name)])
    coefficients[:, eyes] = blinking()[: len(coefficients), eyes]
    frames = FrameSet(capture, dataclasses.replace(track, coefficients=coefficients), torch.device("cpu"))
    made = initial_model(frames, SMALL, seed=0).eval().requires_grad_(False)
    made.measure_limits(frames.training_motion())
    return made, frames


def test_an_avatar_closes_its_eyes_alike_by_slider_and_by_blink(model) -> None:
    made, frames = model
    motion = frames.training_motion()
    still = motion.at(torch.zeros(1, dtype=torch.long))
    blink = int(motion.coefficients[:, columns("eyeBlink")].mean(1).argmax())
    own, alone = still.coefficients.clone(), still.coefficients.clone()
    eyes = columns("eyeBlink", "eyeLookDown", "eyeSquint", "eyeLookUp")
    own[0, eyes] = motion.coefficients[blink, eyes]
    alone[0, columns("eyeBlink")] = motion.coefficients[blink, columns("eyeBlink")]

    def apart() -> float:
        weights = [made.weights(dataclasses.replace(still, coefficients=c))["face"] for c in (own, alone)]
        return float((weights[0] - weights[1]).norm())

    with_lids = apart()
    made.features.lids = None
    assert with_lids < 0.35 * apart()


def test_the_file_keeps_the_lids_and_refuses_damaged_ones(model, saved) -> None:
    made, frames = model
    path = saved(made, frames, SMALL.driver_hidden)
    loaded = load_avatar_file(path)[0]
    assert loaded.features.lids is not None and torch.equal(loaded.features.lids, made.features.lids)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    whole = load_file(path)
    for damage in (lambda t: t[:1], lambda t: t.flip(2), lambda t: t * torch.inf):
        save_file({**whole, "features.lids": damage(whole["features.lids"]).contiguous()}, path, metadata=header)
        with pytest.raises(UserError, match=r"lids|damaged"):
            load_avatar_file(path)
    made.features.lids = None
    assert load_avatar_file(saved(made, frames, SMALL.driver_hidden))[0].features.lids is None
