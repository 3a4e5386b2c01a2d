"""Help and error texts are product surface: snapshots in tests/snapshots (AVATAR_UPDATE_SNAPSHOTS=1 rewrites them)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from avatar.cli import main
from avatar.media import write_video

SNAPSHOTS = Path(__file__).parent / "snapshots"
VERBS = ("fit", "track", "eval", "drive", "export", "play", "view", "doctor")


def check(name: str, text: str) -> None:
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("AVATAR_UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(capsys, verb: str) -> None:
    code, out, _ = run(capsys, *([verb] if verb else []), "--help")
    assert code == 0
    check(f"help_{verb or 'all'}", re.sub(r"[ ]+$", "", out, flags=re.M))


def tiny_video(path: Path, seconds: float = 3.0, value: int = 90) -> Path:
    frames = (np.full((64, 64, 3), value + i % 3, np.uint8) for i in range(round(seconds * 10)))
    write_video(path, frames, 10.0)
    return path


def error(capsys, *arguments: str) -> str:
    """The sentence of a mistake: exit code 2, one line, no traceback."""
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    return lines[0] + "\n"


def cases(tmp: Path) -> dict[str, list[str]]:
    (tmp / "text.mp4").write_text("not a video at all\n" * 50)
    (tmp / "bad.toml").write_text("[train]\nstepz = 3\n")
    (tmp / "type.toml").write_text('[train]\nsteps = "many"\n')
    (tmp / "broken.toml").write_text("= = =")
    (tmp / "other").mkdir()
    (tmp / "other" / "precious.txt").write_text("keep me")
    (tmp / "file").write_text("a file")
    (tmp / "damaged.avatar").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    tiny_video(tmp / "noface.mp4")
    tiny_video(tmp / "short.mp4", 0.5)
    whole = (tmp / "noface.mp4").read_bytes()
    (tmp / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    return {
        "missing_clip": ["fit", "nothing.mp4"],
        "not_a_video": ["fit", "text.mp4"],
        "truncated_video": ["fit", "truncated.mp4"],
        "no_face": ["fit", "noface.mp4"],
        "too_short": ["fit", "short.mp4"],
        "folder_as_clip": ["fit", "other"],
        "unknown_preset": ["fit", "noface.mp4", "--preset", "turbo"],
        "unknown_preset_key": ["fit", "noface.mp4", "--preset", "bad.toml"],
        "wrong_preset_type": ["fit", "noface.mp4", "--preset", "type.toml"],
        "broken_preset": ["fit", "noface.mp4", "--preset", "broken.toml"],
        "foreign_output_folder": ["fit", "noface.mp4", "-o", "other"],
        "output_is_a_file": ["fit", "noface.mp4", "-o", "file"],
        "nothing_to_resume": ["fit", "noface.mp4", "-o", "new", "--resume"],
        "bad_size": ["fit", "noface.mp4", "--size", "3"],
        "bad_steps": ["fit", "noface.mp4", "--steps", "0"],
        "bad_device": ["fit", "noface.mp4", "--device", "tpu"],
        "avatar_twice": ["eval", "damaged.avatar", "other/../damaged.avatar", "--clip", "noface.mp4"],
        "missing_avatar": ["eval", "none.avatar", "--clip", "noface.mp4"],
        "damaged_avatar": ["drive", "damaged.avatar", "speech.wav"],
        "no_source": ["drive", "damaged.avatar"],
        "two_sources": ["drive", "damaged.avatar", "speech.wav", "--track", "t.csv"],
        "output_is_an_input": ["drive", "damaged.avatar", "noface.mp4", "-o", "noface.mp4"],
        "export_unknown_format": ["export", "damaged.avatar", "-o", "new", "--format", "doc"],
        "export_damaged": ["export", "damaged.avatar", "-o", "new"],
        "export_output_is_a_file": ["export", "damaged.avatar", "-o", "file"],
        "export_unknown_coefficient": ["export", "damaged.avatar", "-o", "new", "--expression", "smile=1"],
        "play_nothing": ["play", "other"],
        "export_track_damaged": ["export", "damaged.avatar", "-o", "new", "--track"],
        "view_missing": ["view", "none.avatar"],
        "view_damaged": ["view", "damaged.avatar"],
        "view_no_run": ["view", "other"],
        "track_no_face": ["track", "noface.mp4"],
        "no_landmarker": ["fit", "noface.mp4", "--face-landmarker", "none.task"],
        "track_no_landmarker": ["track", "noface.mp4", "--face-landmarker", "none.task"],
        "bench_no_backend": ["bench", "--backends"],
    }


def test_mistakes_get_one_clear_sentence_and_change_nothing(capsys, tmp_path) -> None:
    sentences = {}
    for name, arguments in cases(tmp_path).items():
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        sentences[name] = error(capsys, *arguments)
        after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert after == before, f"{name} changed files: {set(after) ^ set(before)}"
    check("errors", "".join(f"{name}: {text}" for name, text in sentences.items()))


def test_unwritable_output(capsys, tmp_path, demo_clip) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = error(capsys, "fit", str(demo_clip), "-o", "file/run")
    assert "file" in sentence and "-o" in sentence
