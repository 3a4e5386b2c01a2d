"""Several avatars on the same held-out part of one clip: the same frames of each beside the clip's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from avatar.evaluate.metrics import representative_frames
from avatar.evaluate.pictures import ERROR_FULL_SCALE, css_gradient, error_map
from avatar.evaluate.report import report_dict
from avatar.evaluate.report_data import ROWS, Report
from avatar.evaluate.report_page import (
    MOUTH_PX,
    PICTURE_PX,
    findings_section,
    number_text,
    picture_tag,
    section,
    wide,
)
from avatar.evaluate.svg_plot import Plot, Series, line_plot
from avatar.files import replacing

SCHEMA: Final = 1
"""Version of the comparison's JSON; raised when a key changes its meaning."""

MOUTHS: Final = 6
"""Mouths shown, evenly spaced over the held-out frames that all avatars share."""

COLUMNS: Final[dict[str, tuple[str, int, Callable[[Any], float | None]]]] = {
    "psnr": ("PSNR", 2, lambda row: row["psnr"]),
    "ssim": ("SSIM", 3, lambda row: row["ssim"]),
    "head": ("head", 2, lambda row: row["head"]),
    "mouth_crop": ("mouth crop", 2, lambda row: row["mouth_crop"]),
    "mouth": ("inside lips", 2, lambda row: row["mouth"]),
    "torso": ("torso", 2, lambda row: row["torso"]),
    "background": ("backdrop", 2, lambda row: row["background"]),
    "lmd": ("LMD px", 2, lambda row: row["lmd"]),
    "sharpness_head": ("sharp head", 2, lambda row: row["sharpness"]["head"]),
    "sharpness_mouth": ("sharp mouth", 2, lambda row: row["sharpness"]["mouth"]),
    "jitter": ("jitter", 2, lambda row: row["jitter"]["ratio"]),
}
"""Column of the table -> heading, decimals, and where a row of scores has it. Ratios are rendered over true."""
HIGHER_IS_BETTER: Final = ("psnr", "ssim", "head", "mouth_crop", "mouth", "torso", "background")


@dataclass(frozen=True)
class ShownFrame:
    """One held-out frame of one avatar, tracked motion."""

    frame: int
    """Frame number of the clip."""
    truth: UInt8[np.ndarray, "H W 3"]
    rendering: UInt8[np.ndarray, "H W 3"]
    true_mouth: UInt8[np.ndarray, "S S 3"]
    mouth: UInt8[np.ndarray, "S S 3"]


@dataclass(frozen=True)
class Entry:
    """One avatar of a comparison."""

    name: str
    """Unlike the others'."""
    report: Report
    indices: tuple[int, ...]
    """Frame numbers that were scored, in the order of the report's per-frame scores."""
    shown: tuple[ShownFrame, ...] = ()
    """The frames of `chosen_frames`, in that order."""


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix; with as many folders before them as it takes to tell them apart."""
    parts = [(*path.resolve().parent.parts, path.stem) for path in paths]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def chosen_frames(entries: Sequence[Entry]) -> dict[int, str]:
    """Frame numbers that every avatar was scored on -> 'best', 'median' or 'worst' of the avatars' mean PSNR, or ''
    for those of which only the mouth is shown. Empty if they share no frame."""
    scores = [
        dict(zip(e.indices, e.report.rows["tracked"]["per_frame"], strict=True)) for e in entries
    ]  # frame number -> dB
    common = sorted(set.intersection(*(set(s) for s in scores)))
    if not common:
        return {}
    mean = [float(np.mean([s[frame] for s in scores])) for frame in common]
    labels = {common[position]: label for label, position in representative_frames(mean).items()}
    spaced = np.unique(np.linspace(0, len(common) - 1, MOUTHS).round().astype(int))
    return labels | {common[k]: labels.get(common[k], "") for k in spaced}


def comparison_dict(entries: Sequence[Entry], clip: str) -> dict[str, Any]:
    """``schema``, ``clip`` (name) and ``avatars``: for each `report_dict` with its ``name`` told apart from the
    others', and ``scored_frames`` (frame numbers)."""
    avatars = [report_dict(e.report) | {"name": e.name, "scored_frames": list(e.indices)} for e in entries]
    return {"schema": SCHEMA, "clip": clip, "avatars": avatars}


def write_comparison(
    entries: Sequence[Entry], clip: str, json_path: Path | None = None, html_path: Path | None = None
) -> None:
    """Writes the JSON and the page that are asked for.

    Raises:
        UserError: a file cannot be written.
    """
    if json_path is not None:
        text = json.dumps(comparison_dict(entries, clip), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        with replacing(json_path) as partial:
            partial.write_text(text, encoding="utf-8")
    if html_path is not None:
        with replacing(html_path) as partial:
            partial.write_text(comparison_page(entries, clip), encoding="utf-8")


def comparison_page(entries: Sequence[Entry], clip: str) -> str:
    """One self-contained page: the table, per-frame curves, frames and mouths side by side."""
    template = resources.files("avatar.evaluate").joinpath("report_template.html").read_text(encoding="utf-8")
    summary = (
        f"{len(entries)} avatars on the end of <b>{escape(clip)}</b> that their training never saw: the full frame"
        " against the untouched clip, with nothing real pasted in."
    )
    findings = tuple(dict.fromkeys(finding for e in entries for finding in e.report.findings))
    parts = (findings_section(findings), _table(entries), _frames(entries), _mouths(entries), _curves(entries))
    body = "\n".join(part for part in parts if part)
    title = "Comparison: " + ", ".join(e.name for e in entries)
    return Template(template).substitute(title=escape(title), summary=summary, body=body)


def table_rows(entries: Sequence[Entry]) -> list[tuple[str, str, list[str], list[bool]]]:
    """Row kind, avatar, cells in the order of `COLUMNS`, and which of them are the best of their kind; by kind."""
    rows = []
    for kind in ROWS:
        scored = [(e, e.report.rows[kind]) for e in entries if kind in e.report.rows]
        values = [[get(row) for _, _, get in COLUMNS.values()] for _, row in scored]
        best = [_best(key, [v[k] for v in values]) for k, key in enumerate(COLUMNS)]
        for (entry, _), line in zip(scored, values, strict=True):
            cells = [number_text(v, digits) for v, (_, digits, _) in zip(line, COLUMNS.values(), strict=True)]
            marks = [len(scored) > 1 and v is not None and v == b for v, b in zip(line, best, strict=True)]
            rows.append((kind, entry.name, cells, marks))
    return rows


def _best(key: str, values: Sequence[float | None]) -> float | None:
    """The best of a column: the highest dB, the shortest distance, the ratio nearest to 1."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    if key in HIGHER_IS_BETTER:
        return max(known)
    return min(known) if key == "lmd" else min(known, key=lambda v: abs(np.log(max(v, 1e-6))))


def _table(entries: Sequence[Entry]) -> str:
    facts = {e.name: f"{e.report.rows['tracked']['frames']} frames at {e.report.size} px" for e in entries}
    head = "<tr><th></th><th></th>" + "".join(f"<th>{title}</th>" for title, _, _ in COLUMNS.values()) + "</tr>"
    body = "".join(
        f"<tr><th>{kind}</th><th>{escape(name)}</th>"
        + "".join(f"<td>{f'<b>{c}</b>' if mark else c}</td>" for c, mark in zip(cells, marks, strict=True))
        + "</tr>"
        for kind, name, cells, marks in table_rows(entries)
    )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in facts.items())
    sizes = {e.report.size for e in entries}
    note = "<p class=remark>The sizes differ: larger pictures hold more detail to miss, so their dB are lower.</p>"
    intro = "The best of each kind is bold. Sharpness and jitter are rendered over true: 1 is as filmed."
    table = wide(f'<table class="numbers tight">{head}{body}</table>')
    return section("Scores", intro, f"{table}<dl class=meanings>{listed}</dl>{note if len(sizes) > 1 else ''}")


def _frames(entries: Sequence[Entry]) -> str:
    labels = chosen_frames(entries)
    rows = []
    for position, (frame, label) in enumerate(labels.items()):
        if not label or any(position >= len(e.shown) for e in entries):
            continue
        shown = [e.shown[position] for e in entries]
        cells = _cell(shown[0].truth, "clip", frame) + "".join(
            _cell(s.rendering, f"{e.name}, {_decibels(e, frame)}", frame) for e, s in zip(entries, shown, strict=True)
        )
        errors = "<figure></figure>" + "".join(
            _cell(error_map(s.rendering, s.truth), f"error of {e.name}", frame)
            for e, s in zip(entries, shown, strict=True)
        )
        style = f'style="grid-template-columns:repeat({len(entries) + 1},minmax(9rem,1fr))"'
        caption = f"<h3 class=caption>{label} <span>frame {frame}</span></h3>"
        rows.append(f"{caption}{wide(f'<div class=triple {style}>{cells}{errors}</div>')}")
    if not rows:
        return ""
    legend = (
        f'<p class=scale><span>0</span><i style="background:{css_gradient()}"></i>'
        f"<span>{ERROR_FULL_SCALE} of 255 levels and more</span></p>"
    )
    intro = "The same frames of the clip; best, median and worst by the avatars' mean PSNR."
    return section("Held-out frames", intro, legend + "".join(rows))


def _cell(picture: np.ndarray, caption: str, frame: int) -> str:
    tag = picture_tag(picture, PICTURE_PX, f"{caption}, frame {frame}")
    return f"<figure>{tag}<figcaption>{escape(caption)}</figcaption></figure>"


def _decibels(entry: Entry, frame: int) -> str:
    return f"{entry.report.rows['tracked']['per_frame'][entry.indices.index(frame)]:.1f} dB"


def _mouths(entries: Sequence[Entry]) -> str:
    frames = [s.frame for s in entries[0].shown]
    if not frames:
        return ""
    order = np.argsort(frames)
    head = "<tr><th></th>" + "".join(f"<th>{frames[k]}</th>" for k in order) + "</tr>"
    lines = [("clip", [entries[0].shown[k].true_mouth for k in order])]
    lines += [(e.name, [e.shown[k].mouth for k in order]) for e in entries]
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{picture_tag(p, MOUTH_PX, f'mouth, {name}')}</td>" for p in pictures)
        + "</tr>"
        for name, pictures in lines
    )
    return section("Mouth", "The same square of the same frames.", wide(f'<table class="sheet">{head}{body}</table>'))


def _curves(entries: Sequence[Entry]) -> str:
    def plot(title: str, key: str, unit: str) -> str:
        series = (Series(e.name, e.report.frame_times, np.array(e.report.rows["tracked"][key])) for e in entries)
        return line_plot(Plot(title, "seconds in the clip", unit, tuple(series)))

    plots = plot("PSNR of each held-out frame", "per_frame", "dB") + plot(
        "SSIM of each held-out frame", "per_frame_ssim", ""
    )
    return section("Frame by frame", "Tracked motion.", f"<div class=plots>{plots}</div>")
