"""Whose run a folder is: what is used again, what is left over from a killed fit, what may be resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar.config import FitConfig
from avatar.errors import UserError
from avatar.run_folder import RunFolder, load_run, open_run
from avatar.train import checkpoint_path

CLIP = Path("me.mp4")


def opened(folder: Path, config: FitConfig | None = None, landmarker: bool = False, resume: bool = False) -> RunFolder:
    return open_run(folder, CLIP, "0" * 64, config or FitConfig(), landmarker, resume)


def process_that_ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_fit_left_of_the_clip_is_cleared_away(tmp_path) -> None:
    folder = tmp_path / "me"
    for kind, number in (("partial", process_that_ended()), ("partial", os.getpid()), ("old", process_that_ended())):
        left = folder / f".capture.{kind}-{number}"
        left.mkdir(parents=True, exist_ok=True)
        (left / "frames.rgb").write_bytes(b"half")
    assert load_run(folder) is None
    opened(folder)
    assert list(folder.iterdir()) == []


def test_what_another_fit_is_reading_stays(tmp_path) -> None:
    reading = tmp_path / f".capture.partial-{os.getppid()}"
    reading.mkdir()
    with pytest.raises(UserError, match="holds something else"):
        opened(tmp_path)
    opened_before = RunFolder(tmp_path, CLIP.name, "0" * 64, FitConfig(), False, {})
    opened_before.save()
    opened(tmp_path)
    assert reading.is_dir()


def test_a_folder_with_something_else_in_it_is_refused(tmp_path) -> None:
    for name in ("precious.txt", ".capture.partial-mine"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("keep me")
        with pytest.raises(UserError, match="holds something else"):
            opened(folder)
        assert (folder / name).read_text() == "keep me"


def test_resuming_takes_the_same_settings_and_the_same_landmarker(tmp_path) -> None:
    opened(tmp_path / "me", landmarker=True).save()
    assert opened(tmp_path / "me", landmarker=True, resume=True).face_landmarker
    with pytest.raises(UserError, match=r"other settings \(--face-landmarker given there, not now\); give the same"):
        opened(tmp_path / "me", resume=True)
    with pytest.raises(UserError, match=r"other settings \(size None there, 64 now\)"):
        opened(tmp_path / "me", FitConfig(size=64), landmarker=True, resume=True)


def test_starting_over_forgets_the_training_but_no_result(tmp_path) -> None:
    run = opened(tmp_path / "me")
    results = [run.avatar, run.preview, run.path / "report.html", run.track]
    for path in (*results, checkpoint_path(run.path), run.path / "metrics.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    run.discard_training()
    run.discard_training()  # nothing is left to remove
    assert sorted(run.path.iterdir()) == sorted(results)
