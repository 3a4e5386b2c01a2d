"""`avatar bench` on a small scale: what it measures, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from avatar.bench import bench, scenes
from avatar.errors import UserError

TINY = (scenes.SceneSize(200, 16, 1), scenes.SceneSize(300, 24, 2))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avatar.bench.run.SIZES", TINY)


def test_every_backend_that_runs_is_measured_on_every_scene(tiny, tmp_path: Path) -> None:
    result = bench(backends=("cpu", "twin"), scenes=tmp_path / "scenes", seconds=0.01, json_path=tmp_path / "b.json")
    assert [(r["scene"], r["backend"]) for r in result["rows"]] == [
        (size.name, name) for size in TINY for name in ("cpu", "twin")
    ]
    # backward is a difference of two medians: on scenes this small it may come out as 0
    assert all(r["forward_ms"] > 0 and r["backward_ms"] >= 0 and r["step_ms"] > 0 for r in result["rows"])
    assert json.loads((tmp_path / "b.json").read_text()) == result
    saved = sorted(p.name for p in (tmp_path / "scenes").iterdir())
    assert saved == sorted(f"{size.name}.safetensors" for size in TINY)


def test_scenes_are_the_same_from_seed_and_from_file(tmp_path: Path) -> None:
    made = scenes.load_or_make(TINY[1], tmp_path)
    again, seeded = scenes.load_or_make(TINY[1], tmp_path), scenes.make_scene(300, 24, 2)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(made, again, seeded, strict=True))
    (tmp_path / f"{TINY[1].name}.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        scenes.load_or_make(TINY[1], tmp_path)
    scenes.load_or_make(TINY[0], tmp_path)
    (tmp_path / f"{TINY[0].name}.safetensors").rename(tmp_path / f"{TINY[1].name}.safetensors")
    with pytest.raises(UserError, match="is another one"):
        scenes.load_or_make(TINY[1], tmp_path)


def test_backends_that_cannot_run_say_why(tiny) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="No backend can run here: cuda: "):
        bench(backends=("cuda",), seconds=0.01)
    with pytest.raises(UserError, match="There is no backend 'metal'"):
        bench(backends=("metal",))
    with pytest.raises(UserError, match="There is no scene '1k'"):
        bench(only=("1k",))
    with pytest.raises(UserError, match="out of range"):
        bench(seconds=0.0)


def test_what_would_be_lost_is_said_before_anything_is_measured(tiny, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("avatar.bench.run.measure", lambda *_: pytest.fail("it measured"))
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "b.json", tmp_path):
        with pytest.raises(UserError, match=r"in the way|name a file with --json"):
            bench(backends=("twin",), seconds=0.01, json_path=place)
    with pytest.raises(UserError, match="An avatar is drawn by cpu or cuda"):
        bench(tmp_path / "none.avatar", backends=("twin",), seconds=0.01)
