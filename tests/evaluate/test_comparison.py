"""Several avatars on one clip: names, shared frames, what is best, the page and its JSON, and the verb itself."""

from __future__ import annotations

import dataclasses
import json
import re
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_report import Page, example_report

import avatar.scoring as scoring
from avatar.cli import main
from avatar.config import BranchConfig, ModelConfig
from avatar.dataset import FrameSet
from avatar.errors import UserError
from avatar.evaluate.comparison import (
    COLUMNS,
    Entry,
    ShownFrame,
    chosen_frames,
    comparison_dict,
    comparison_page,
    distinct_names,
    table_rows,
)
from avatar.model import Avatar, Metadata, initial_model
from avatar.progress import SILENT, Reporter
from avatar.speech import person_statistics
from avatar.types import Provenance

SMALL = ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), driver_hidden=8)


@pytest.fixture(scope="module")
def report():
    return example_report()


def entry(report, name: str, first: int = 273, **scores) -> Entry:
    tracked = dict(report.rows["tracked"], **scores)
    indices = tuple(range(first, first + tracked["frames"]))
    return Entry(name, dataclasses.replace(report, rows={**report.rows, "tracked": tracked}), indices)


def with_pictures(one: Entry, numbers: list[int]) -> Entry:
    random = np.random.default_rng(1)

    def picture(side: int) -> np.ndarray:
        return random.integers(0, 255, (side, side, 3), dtype=np.uint8)

    shown = (ShownFrame(n, picture(32), picture(32), picture(12), picture(12)) for n in numbers)
    return dataclasses.replace(one, shown=tuple(shown))


def test_names_are_as_short_as_they_can_be_and_differ():
    assert distinct_names([Path("runs/a/x.avatar"), Path("runs/b/y.avatar")]) == ["x", "y"]
    assert distinct_names([Path("runs/a/x.avatar"), Path("runs/b/x.avatar")]) == ["a/x", "b/x"]
    assert distinct_names([Path("m/a/x.avatar"), Path("n/a/x.avatar"), Path("z.avatar")])[:2] == ["m/a/x", "n/a/x"]


def test_shown_frames_are_shared_by_all_and_hold_the_best_and_the_worst(report):
    a, b = entry(report, "a", 273), entry(report, "b", 276)  # the last 9 of a are the first 9 of b
    chosen = chosen_frames([a, b])
    assert set(chosen) <= set(range(276, 285)) and {"best", "median", "worst"} <= set(chosen.values())
    scores = {f: a.report.rows["tracked"]["per_frame"][f - 273] + b.report.rows["tracked"]["per_frame"][f - 276]
              for f in range(276, 285)}  # fmt: skip
    best = next(f for f, label in chosen.items() if label == "best")
    assert scores[best] == max(scores.values())
    assert chosen_frames([a, entry(report, "c", 900)]) == {}


def test_the_best_of_each_column_is_marked(report):
    a = entry(report, "a", psnr=30.0, lmd=1.5, jitter={"error": 1.0, "ratio": 1.3}, mouth=None)
    b = entry(report, "b", psnr=31.0, lmd=0.5, jitter={"error": 1.0, "ratio": 0.9}, mouth=None)
    rows = [row for row in table_rows([a, b]) if row[0] == "tracked"]
    marks = {name: dict(zip(COLUMNS, best, strict=True)) for _, name, _, best in rows}
    cells = {name: dict(zip(COLUMNS, texts, strict=True)) for _, name, texts, _ in rows}
    for key in ("psnr", "lmd", "jitter"):
        assert marks["b"][key] and not marks["a"][key]
    assert not marks["a"]["mouth"] and cells["a"]["mouth"] == "–"
    assert cells["b"]["psnr"] == "31.00"
    assert not any(any(best) for _, _, _, best in table_rows([a]))  # nothing to be better than


def test_page_has_the_same_frames_of_each_side_by_side(report):
    a, b = entry(report, "a"), entry(report, "<b>")
    numbers = list(chosen_frames([a, b]))
    html = comparison_page([with_pictures(a, numbers), with_pictures(b, numbers)], "take 3.mp4")
    page = Page()
    page.feed(html)
    assert page.open == [] and "script" not in page.tags
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    # Three frames with the clip, two renderings and two error maps; the mouths of all chosen frames three times.
    assert len(page.addresses) == 3 * 5 + 3 * len(numbers)
    assert "&lt;b&gt;" in html and "<h2>Mouth</h2>" in html and "The sizes differ" not in html
    assert not re.search(r"https?://", html)


def test_page_without_shared_frames_has_the_table_alone(report):
    html = comparison_page([entry(report, "a", 0), entry(report, "b", 500)], "clip.mp4")
    assert "<h2>Scores</h2>" in html and "<h2>Held-out frames</h2>" not in html


def test_json_holds_the_report_of_each(report):
    values = json.loads(json.dumps(comparison_dict([entry(report, "a"), entry(report, "b")], "clip.mp4")))
    assert [v["name"] for v in values["avatars"]] == ["a", "b"] and values["clip"] == "clip.mp4"
    assert values["avatars"][0]["psnr"] == pytest.approx(report.rows["tracked"]["psnr"], abs=1e-6)
    assert values["avatars"][1]["scored_frames"] == list(range(273, 285))


@pytest.fixture()
def two_avatars(person, tmp_path, monkeypatch) -> tuple[list[Path], Path]:
    """Two avatar files of the synthetic person and a stand-in for its clip, tracked already."""
    capture, track = person
    frames = FrameSet(capture, track, torch.device("cpu"))
    reference = {k: np.eye(4)[:3].tolist() for k in ("camera_from_head", "camera_from_torso")}
    reference["camera_from_head"] = track.camera_from_head[0, :3].tolist()
    reference["camera_from_torso"] = track.camera_from_torso[0, :3].tolist()
    metadata = Metadata(track.camera, Provenance("synthetic", "0" * 64, "0", "now"), 25.0,
                        reference_pose=reference, hidden=SMALL.driver_hidden)  # fmt: skip
    paths = []
    for seed in (0, 1):
        path = tmp_path / f"run{seed}" / "me.avatar"
        path.parent.mkdir()
        Avatar(initial_model(frames, SMALL, seed), metadata, person_statistics(track), None).save(path)
        paths.append(path)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"only its hash is read")
    calls = []

    class Tracked:
        def __enter__(self):
            calls.append(1)
            return capture, track, None

        def __exit__(self, *_: object) -> None:
            assert len(calls) == 1  # both avatars have one size: tracked once
            calls.clear()

    monkeypatch.setattr(scoring, "_tracked", lambda *_: Tracked())
    return paths, clip


def test_several_files_are_scored_as_each_alone_and_compared(two_avatars, tmp_path, capsys):
    paths, clip = two_avatars
    page, numbers, pictures = tmp_path / "page.html", tmp_path / "all.json", tmp_path / "pictures"
    entries = scoring.evaluate_files(tuple(paths), clip, pictures, numbers, page, None, SILENT)
    scoring.print_scores(entries)
    printed = capsys.readouterr().out
    assert "run0/me" in printed and "run1/me" in printed and "2 avatars" in printed
    values = json.loads(numbers.read_text())["avatars"]
    assert [v["name"] for v in values] == ["run0/me", "run1/me"]
    assert (pictures / "run1/me/render/000020.png").is_file() and (pictures / "run0/me/truth/000021.png").is_file()
    assert "<h2>Mouth</h2>" in page.read_text() and {s.frame for s in entries[0].shown} == {20, 21}
    alone = tmp_path / "one.json"
    scoring.evaluate_files((paths[0],), clip, None, alone, None, None, SILENT)
    one = json.loads(alone.read_text())
    assert {k: one[k] for k in ("psnr", "head", "mouth_crop", "name")} == {
        **{k: values[0][k] for k in ("psnr", "head", "mouth_crop")}, "name": "me",
    }  # fmt: skip


def test_a_clip_that_an_avatar_was_not_made_from_is_pointed_out(two_avatars, tmp_path, capsys):
    paths, clip = two_avatars
    page = tmp_path / "page.html"
    sentence = "This is not the clip that me was made from (synthetic)"
    scoring.evaluate_files((paths[0],), clip, None, None, page, None, Reporter())
    assert f"warning: {sentence}" in capsys.readouterr().err and escape(sentence) in page.read_text()
    scoring.evaluate_files(tuple(paths), clip, None, None, page, None, SILENT)
    assert page.read_text().count("was made from (synthetic)") == 2
    someone = Avatar.load(paths[0])
    assert scoring.other_clip(someone, "me", someone.metadata.provenance.source_sha256) == ()


def test_mistakes_are_one_sentence(two_avatars, tmp_path, capsys):
    paths, clip = two_avatars
    with pytest.raises(UserError, match="named twice"):
        scoring.evaluate_files((paths[0], paths[0]), clip, None, None, None, None, SILENT)
    with pytest.raises(UserError, match="no avatar file"):
        scoring.evaluate_files((paths[0], tmp_path / "none.avatar"), clip, None, None, None, None, SILENT)
    with pytest.raises(SystemExit) as left:
        main(["eval", str(paths[0]), str(tmp_path / "none.avatar"), "--clip", str(clip)])
    assert left.value.code == 2
    assert re.fullmatch(r"error: There is no avatar file .*none\.avatar\.\n", capsys.readouterr().err)
