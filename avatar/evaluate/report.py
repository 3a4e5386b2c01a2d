"""Writes what an evaluation found: `report.json` for programs, `report.html` (one self-contained page) for people."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avatar.conventions import REGIONS
from avatar.evaluate.report_data import Report
from avatar.evaluate.report_page import page
from avatar.evaluate.svg_plot import Plot
from avatar.files import replacing

SCHEMA = 1
"""Version of report.json; raised when a key changes its meaning."""


def report_dict(report: Report) -> dict[str, Any]:
    """The report as JSON-ready values; what could not be measured is None.

    Top level, of the tracked row: ``psnr`` (dB, mean over frames), ``ssim``, ``head``, ``mouth`` (inside the lips),
    ``torso``, ``background`` and ``mouth_crop`` (the box around the lips; dB, squared error pooled over frames),
    ``lmd`` (px), ``region_ssim`` (region -> SSIM), ``sharpness`` (region -> ratio), ``jitter`` (``error`` in levels of
    255, ``ratio``), ``error_share`` (region -> share), ``frames`` (number scored). Of the fit: ``seconds_fit``,
    ``seconds`` (stage -> s), ``device``, ``settings``. Then ``schema``, ``name``, ``clip``, ``size`` (px), ``rows``
    (row -> the same scores with ``per_frame`` and ``per_frame_ssim``), ``times`` (s, of the scored frames), ``speech``
    (coefficient scores or None), ``curves``, ``motion``, ``speech_curves`` (lists of plots with their series),
    ``findings``, ``facts``, ``provenance``. Pictures are only in the page.
    """
    tracked = report.rows["tracked"]
    keys = ("psnr", "ssim", *reversed(REGIONS), "mouth_crop", "lmd", "frames")
    keys += ("region_ssim", "sharpness", "jitter", "error_share")
    values: dict[str, Any] = {"schema": SCHEMA, "name": report.name, "clip": report.clip_name}
    values |= {key: tracked[key] for key in keys}
    values |= {
        "seconds_fit": report.seconds_fit,
        "device": report.device,
        "size": report.size,
        "seconds": report.seconds,
        "rows": report.rows,
        "times": report.frame_times,
        "speech": report.speech,
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "facts": report.facts,
        "settings": report.settings,
        "provenance": dataclasses.asdict(report.provenance),
        "curves": [_plot_dict(plot) for plot in report.curves],
        "motion": [_plot_dict(plot) for plot in report.motion],
        "speech_curves": [_plot_dict(plot) for plot in report.speech_curves],
    }
    return _plain(values)


def write_report(report: Report, run_folder: Path) -> tuple[Path, Path]:
    """Writes ``report.json`` and ``report.html`` into the run folder and returns their paths; the folder is made.

    Raises:
        UserError: the folder cannot be written.
    """
    json_path, html_path = run_folder / "report.json", run_folder / "report.html"
    write_json(report, json_path)
    write_page(report, html_path)
    return json_path, html_path


def write_page(report: Report, path: Path) -> None:
    """Writes the page alone.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(page(report), encoding="utf-8")


def write_json(report: Report, path: Path) -> None:
    """Writes `report_dict` alone.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps(report_dict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _plot_dict(plot: Plot) -> dict[str, Any]:
    series = [{"label": s.label, "x": s.x, "y": s.y} for s in plot.series]
    return {"title": plot.title, "x_label": plot.x_label, "y_label": plot.y_label, "series": series}


def _plain(value: Any) -> Any:
    """NumPy and paths as JSON types; numbers that JSON has no word for (nan, infinity) as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
