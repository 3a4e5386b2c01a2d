"""The rows of the ablation table are settings that a preset could hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from ablate import VARIANTS

from avatar.config import load_preset, with_changes


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_row_changes_something_and_can_be_fitted(name) -> None:
    preset = load_preset("quick")
    settings = {key: value for key, value in VARIANTS[name].items() if key != "track"}
    assert (with_changes(preset, settings, name) == preset) == (not settings)
