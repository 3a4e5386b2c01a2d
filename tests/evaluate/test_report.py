"""The report page and its JSON: complete, self-contained, escaped; plots; pictures."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_report import Page, example_report, example_track

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.errors import UserError
from avatar.evaluate.pictures import crop_square, error_map, jpeg_uri
from avatar.evaluate.report import report_dict, write_report
from avatar.evaluate.report_data import (
    Report,
    most_moving,
)
from avatar.evaluate.svg_plot import MAX_POINTS, Plot, Series, line_plot
from avatar.types import Finding, Provenance


@pytest.fixture(scope="module")
def report() -> Report:
    return example_report()


@pytest.fixture(scope="module")
def written(report, tmp_path_factory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("report") / "run"
    json_path, html_path = write_report(report, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]  # nothing half-written is left
    return json.loads(json_path.read_text()), html_path.read_text()


def test_json_has_the_documented_keys(written, report):
    values, _ = written
    tracked = report.rows["tracked"]
    for key in ("psnr", "ssim", "head", "mouth", "mouth_crop", "torso", "background"):
        assert values[key] == pytest.approx(tracked[key], abs=1e-6)
    assert values["jitter"]["ratio"] == pytest.approx(tracked["jitter"]["ratio"], abs=1e-6)
    assert values["region_ssim"] == pytest.approx(tracked["region_ssim"], abs=1e-6)
    assert values["clip"] == "interview take 3.mp4"
    assert set(values["sharpness"]) == {"background", "torso", "head", "mouth", "frame"}
    assert (values["lmd"], values["frames"], values["seconds_fit"]) == (0.71, 12, 234.7)
    assert values["device"] == "CPU, 2 threads, AVX2"
    assert list(values["rows"]) == ["tracked", "refined", "speech"]
    assert len(values["rows"]["tracked"]["per_frame"]) == len(values["times"]) == 12
    assert values["settings"]["train"]["losses"]["dssim"] == 0.2
    assert values["curves"][1]["series"][0]["label"] == "training"


def test_json_turns_what_has_no_number_into_null(report):
    rows = {"tracked": dict(report.rows["tracked"], mouth=None, lmd=np.float32("nan"))}
    values = report_dict(dataclasses.replace(report, rows=rows))
    assert values["mouth"] is None and values["lmd"] is None
    json.dumps(values, allow_nan=False)


def test_page_is_self_contained_and_well_formed(written):
    _, html = written
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.addresses) == 3 * 3 + 8 * 3 + 1
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    style = html[: html.index("</style>")]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert not re.search(r"https?://", html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        ElementTree.fromstring(svg)


def test_page_shows_the_numbers_and_the_findings(written, report):
    _, html = written
    tracked = report.rows["tracked"]
    assert f"{tracked['psnr']:.2f}" in html and f"{tracked['ssim']:.3f}" in html
    for region in ("head", "torso", "background"):
        assert f"<td>{tracked['region_ssim'][region]:.3f}</td>" in html
    assert "3:55" in html and "No face was found from 3.2 s to 3.6 s" in html
    assert html.index("No face was found") < html.index("at most 11 degrees")  # warnings first
    assert html.count("<figcaption>error</figcaption>") == 3
    for heading in (
        "Held-out frames",
        "Mouth",
        "Beyond the clip",
        "Scores",
        "Regions",
        "Speech",
        "Training",
        "Tracked motion",
    ):
        assert f"<h2>{heading}</h2>" in html
    assert "train.losses.mouth_weight" in html


def test_page_escapes_everything(report, tmp_path):
    evil = "<script>alert('x')</script>&\"$title"
    changed = dataclasses.replace(
        report,
        name=evil,
        device=evil,
        provenance=Provenance(evil, evil, evil, evil, evil, {evil: evil}),
        findings=(Finding(evil, evil),),
        settings={evil: {evil: evil}},
        facts={evil: evil},
        seconds={evil: 1.0},
        curves=(Plot(evil, evil, evil, (Series(evil, np.arange(3), np.arange(3)),) * 2),),
        frames=tuple(dataclasses.replace(f, label=evil) for f in report.frames),
        novel=tuple(dataclasses.replace(view, label=evil, detail=evil) for view in report.novel),
        rows={"tracked": dict(report.rows["tracked"], notes=[evil])},
    )
    html = write_report(changed, tmp_path)[1].read_text()
    page = Page()
    page.feed(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12


def test_page_without_speech_pictures_or_curves(report, tmp_path):
    bare = dataclasses.replace(
        report, rows={"tracked": report.rows["tracked"]}, speech=None, speech_curves=(), frames=(), mouths=(), novel=(),
        findings=(), curves=(), motion=(), settings={}, facts={},
    )  # fmt: skip
    html = write_report(bare, tmp_path)[1].read_text()
    assert "<h2>Speech</h2>" not in html and "<h2>Held-out frames</h2>" not in html and "<h2>Scores</h2>" in html
    assert report_dict(bare)["speech"] is None


def test_report_refuses_rows_that_do_not_fit(report):
    with pytest.raises(ValueError, match="rows must be"):
        dataclasses.replace(report, rows={"speech": report.rows["speech"]})
    with pytest.raises(ValueError, match="3 times for 12"):
        dataclasses.replace(report, frame_times=np.arange(3) / 25)


def test_unwritable_folder_is_one_clear_sentence(report, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(report, tmp_path / "file")
    assert Path(tmp_path / "file").read_text() == "in the way"


def test_line_plot_draws_the_values_where_they_belong():
    svg = line_plot(Plot("t", "x", "y", (Series("a", np.array([0, 1, 2]), np.array([0.0, 1.0, 0.5])),)))
    path = re.search(r'class="line c0" d="([^"]+)"', svg)
    assert path is not None
    points = np.array([[float(v) for v in p.split()] for p in re.findall(r"[ML]([\d. ]+)", path.group(1))])
    assert points[0, 0] == 52 and points[2, 0] == 412  # full width between the margins
    assert points[1, 1] < points[2, 1] < points[0, 1]  # up is more
    assert points[2, 1] == pytest.approx((points[0, 1] + points[1, 1]) / 2, abs=0.11)


def test_line_plot_copes_with_gaps_constants_spikes_and_nothing():
    gap = line_plot(Plot("t", "x", "y", (Series("a", np.arange(4), np.array([1.0, np.nan, 1.0, 1.0])),)))
    assert gap.count("M", gap.index("line c0")) == 2
    empty, zero = Series("a", np.zeros(0), np.zeros(0)), Series("a", np.arange(3), np.zeros(3))
    assert "Nothing was measured" in line_plot(Plot("t", "x", "y", (empty,)))
    assert "Nothing was measured" in line_plot(Plot("t", "x", "y", (zero,), log_y=True))
    values = np.zeros(20_000)
    values[12_345] = 1.0
    svg = line_plot(Plot("t", "x", "y", (Series("a", np.arange(20_000), values),)))
    path = re.search(r'class="line c0" d="([^"]+)"', svg)
    assert path is not None
    heights = [float(p.split()[1]) for p in re.findall(r"[ML]([\d. ]+)", path.group(1))]
    assert len(heights) <= MAX_POINTS + 2
    assert max(heights) - min(heights) > 130  # the spike survives thinning


def test_log_axis_has_round_ticks():
    svg = line_plot(Plot("t", "x", "y", (Series("a", np.arange(3), np.array([0.02, 0.1, 0.4])),), log_y=True))
    assert re.findall(r'class="end"[^>]*>([^<]+)<', svg) == ["0.02", "0.05", "0.1", "0.2"]


def test_most_moving_takes_one_of_each_pair():
    coefficients = example_track().coefficients
    names = [list(BLENDSHAPE_INDEX)[k] for k in most_moving(coefficients, 4)]
    assert names == ["eyeBlinkLeft", "jawOpen", "mouthSmileLeft", "mouthFunnel"]


def test_error_map_is_dark_where_equal_and_bright_where_far():
    truth = np.full((4, 6, 3), 100, np.uint8)
    image = truth.copy()
    image[:, 3:] += 60
    error = error_map(image, truth)
    assert tuple(error[0, 0]) == (0, 0, 4) and tuple(error[0, 5]) == (252, 255, 164)
    assert (error_map(truth, image) == error).all()


def test_mouth_crop_stays_square_beyond_the_border():
    image = np.arange(20 * 20 * 3, dtype=np.uint32).reshape(20, 20, 3).astype(np.uint8)
    crop = crop_square(image, (-4, 15, 10))
    assert crop.shape == (10, 10, 3)
    np.testing.assert_array_equal(crop[0, :5], np.repeat(image[15, :1], 5, axis=0))
    np.testing.assert_array_equal(crop[-1, 4:], image[19, :6])
    assert jpeg_uri(crop).startswith("data:image/jpeg;base64,/9j/")
