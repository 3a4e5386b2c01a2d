"""Presets hold only differences; unknown keys, wrong types and impossible values are errors that name the key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avatar.capture.crop import MIN_SIZE
from avatar.config import LIMITS, FitConfig, TrainConfig, checked, load_preset, preset_names, with_changes
from avatar.errors import UserError


def test_every_preset_loads_and_differs_from_the_defaults() -> None:
    assert set(preset_names()) == {"quick", "cpu", "quality"}
    loaded = {name: load_preset(name) for name in preset_names()}
    assert loaded["quick"].size == 256 and loaded["cpu"].size == 512
    assert len({str(c) for c in loaded.values()}) == 3


def test_changes_reach_nested_settings_and_leave_the_rest() -> None:
    config = with_changes(FitConfig(), {"train": {"rates": {"means": 1}}}, "x")
    assert config.train.rates.means == 1.0
    plain = dataclasses.replace(config.train, rates=FitConfig().train.rates)
    assert dataclasses.replace(config, train=plain) == FitConfig()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trian": {}}, "x: unknown setting 'trian'; known here: .*train"),
        ({"train": {"rates": {"mean": 1.0}}}, "unknown setting 'train.rates.mean'"),
        ({"train": 3}, "'train' is a group"),
        ({"size": "big"}, "'size' must be int or NoneType, not 'big'"),
        ({"train": {"steps": 2.5}}, "'train.steps' must be int"),
        ({"speech": {"enabled": 1}}, "'speech.enabled' must be bool"),
        ({"train": {"steps": True}}, "must be int"),
        ({"model": {"motion": "splines"}}, "^x: 'model.motion' must be basis or hashgrid, not 'splines'\\.$"),
    ],
)
def test_mistakes_name_the_key(values, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        with_changes(FitConfig(), values, "x")


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="choose one of cpu, quality, quick"):
        load_preset("slow")


def numbers(config: Any, prefix: str = "") -> Iterator[str]:
    """Keys of all settings that are numbers."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{key}.")
        elif not isinstance(value, bool | str):
            yield key


def nested(key: str, value: float | int) -> dict[str, Any]:
    """What a preset holds that sets this one key."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


def test_every_number_has_limits() -> None:
    assert sorted(numbers(FitConfig())) == sorted(LIMITS)


@pytest.mark.parametrize("key", LIMITS)
def test_numbers_out_of_range_are_refused(key) -> None:
    low, high = LIMITS[key]
    for value in (low, high):
        with_changes(FitConfig(), nested(key, value), "x")
    whole = isinstance(low, int)
    for value in (low - 1, high + 1, *(() if whole else (math.nan, math.inf))):
        with pytest.raises(UserError, match=rf"^x: '{key}' must be from .* to .*, not .*\.$"):
            with_changes(FitConfig(), nested(key, value), "x")


def test_settings_made_in_python_are_held_to_the_same() -> None:
    assert checked(FitConfig()) == FitConfig()
    for train in (TrainConfig(steps=0), TrainConfig(codes_hidden=math.nan)):
        with pytest.raises(UserError, match=r"^settings: 'train"):
            checked(dataclasses.replace(FitConfig(), train=train))


def test_a_preset_may_be_given_as_a_path(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nsteps = 7\n")
    assert load_preset(tmp_path / "mine.toml") == load_preset(str(tmp_path / "mine.toml"))
    with pytest.raises(UserError, match=r"There is no preset 'nope\.toml'"):
        load_preset(Path("nope.toml"))


@pytest.mark.parametrize("given", ["quick", {}, {"size": 64}, 3])
def test_other_things_than_settings_are_refused(given) -> None:
    with pytest.raises(UserError, match="Settings are a FitConfig, such as load_preset gives, not"):
        checked(given)


def test_the_smallest_size_is_one_that_a_clip_can_be_cropped_to() -> None:
    assert LIMITS["size"][0] == MIN_SIZE
