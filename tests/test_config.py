"""Presets hold only differences; unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses

import pytest

from avatar.config import FitConfig, load_preset, preset_names, with_changes
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
