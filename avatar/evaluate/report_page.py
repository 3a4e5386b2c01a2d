"""The report as one HTML page: no script, no request to anywhere, pictures embedded, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any, Final

import numpy as np

from avatar.conventions import REGIONS
from avatar.evaluate.novel import NovelView
from avatar.evaluate.pictures import ERROR_FULL_SCALE, css_gradient, error_map, jpeg_uri, resized
from avatar.evaluate.report_data import ROWS, HeldOutFrame, MouthCrop, Report
from avatar.evaluate.svg_plot import Plot, Series, line_plot
from avatar.types import Finding

PICTURE_PX: Final = 384
"""Longer side of an embedded frame: what three beside each other need on a desktop screen."""
MOUTH_PX: Final = 160
"""Side of an embedded mouth crop; all are scaled to it so that they can be compared."""

NOVEL_PX: Final = 256
"""Longer side of a picture of the novel sheet."""

MISSING: Final = "–"

ROW_MEANING: Final = {
    "tracked": "motion as the tracking stage gives it, before any avatar exists: the score that counts",
    "driven": "the tracked coefficients and poses alone, without the appearance codes that were read from the frame: "
    "what a driver that sees no picture gives",
    "refined": "motion also refined against the avatar on the frame itself: what better tracking gives",
    "speech": "mouth motion from the sound alone, the rest tracked; only the mouth can be compared with the clip",
}
SPEECH_COLUMNS: Final = ("mouth_crop", "mouth", "lmd")
"""What a speech-driven frame can be judged by: its lips need not be the clip's pixel for pixel elsewhere."""

COLUMNS: Final = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "head": ("head", 2),
    "mouth_crop": ("mouth crop", 2),
    "mouth": ("inside lips", 2),
    "torso": ("torso", 2),
    "background": ("backdrop", 2),
    "lmd": ("LMD px", 2),
}
"""Score -> column heading and decimals."""


def page(report: Report) -> str:
    """The whole page as text."""
    template = resources.files("avatar.evaluate").joinpath("report_template.html").read_text(encoding="utf-8")
    sections = (
        _headline(report),
        findings_section(report.findings),
        _frames(report.frames),
        _mouths(report.mouths),
        _novel(report.novel),
        _rows(report),
        _regions(report),
        _speech(report),
        _plots("Training", "", report.curves),
        _plots("Tracked motion", "What the tracking stage read from the clip.", report.motion),
        _timings(report),
        _settings(report.settings),
        _provenance(report),
    )
    return Template(template).substitute(
        title=escape(report.name), summary=_summary(report), body="\n".join(part for part in sections if part)
    )


def _summary(report: Report) -> str:
    first, last = float(report.frame_times[0]), float(report.frame_times[-1])
    frames = report.rows["tracked"]["frames"]
    return (
        f"Scored on {frames} frames of <b>{escape(report.clip_name)}</b> that the training never saw"
        f" ({first:.1f} s to {last:.1f} s), at {report.size} × {report.size} px: the full frame against the"
        " untouched clip, with nothing real pasted in."
    )


def _headline(report: Report) -> str:
    row = report.rows["tracked"]
    tiles = [
        ("PSNR", row["psnr"], 1, " dB", f"Likeness of the whole frame. Typical colour error {_rms(row['psnr'])}."),
        ("SSIM", row["ssim"], 3, "", "Structure kept: edges and texture. 1 is identical."),
        ("Mouth", row["mouth_crop"], 1, " dB", "Likeness of the square around the lips."),
        ("Lip distance", row["lmd"], 2, " px", "How far rendered lips and jaw are from the filmed ones (LMD)."),
        ("Sharpness", _percent(row["sharpness"]["head"]), 0, " %", "Detail of the head: 100 % is as sharp as filmed."),
        ("Jitter", _percent(row["jitter"]["ratio"]), 0, " %", "Trembling of the head: 100 % is what the clip has."),
    ]
    if report.speech is not None:
        heard = report.speech["correlation_mean"]
        tiles.append(("Speech", heard, 2, "", "How closely sound alone moves the mouth as filmed. 1 is exactly."))
    cards = [
        f"<div class=tile><h3>{escape(name)}</h3><p class=value>{number_text(value, digits)}"
        f"<small>{unit if value is not None else ''}</small></p><p>{escape(meaning)}</p></div>"
        for name, value, digits, unit, meaning in tiles
    ]
    value, unit = _clock(report.seconds_fit)
    cards.append(
        f"<div class=tile><h3>Fit</h3><p class=value>{value}<small> {unit}</small></p>"
        f"<p>From clip to avatar on {escape(report.device)}.</p></div>"
    )
    return f"<section class=tiles>{''.join(cards)}</section>"


def findings_section(findings: Sequence[Finding]) -> str:
    """What the user should know about the clip, warnings first."""
    if not findings:
        return ""
    ordered = sorted(findings, key=lambda finding: finding.severity != "warning")
    entries = []
    for finding in ordered:
        kind = "warning" if finding.severity == "warning" else "note"
        entries.append(f"<li class={kind}><b>{escape(finding.severity)}</b> {escape(finding.message)}</li>")
    return section("About this clip", "", f"<ul class=findings>{''.join(entries)}</ul>")


def _frames(frames: Sequence[HeldOutFrame]) -> str:
    if not frames:
        return ""
    rows = []
    for shown in frames:
        error = error_map(shown.rendering, shown.truth)
        pictures = (("clip", shown.truth), ("avatar", shown.rendering), ("error", error))
        cells = ""
        for kind, picture in pictures:
            embedded = picture_tag(picture, PICTURE_PX, f"{kind}, frame {shown.frame}")
            cells += f"<figure>{embedded}<figcaption>{kind}</figcaption></figure>"
        caption = f"{escape(shown.label)} <span>frame {shown.frame}, {shown.psnr:.1f} dB</span>"
        rows.append(f"<h3 class=caption>{caption}</h3><div class=triple>{cells}</div>")
    legend = (
        f'<p class=scale><span>0</span><i style="background:{css_gradient()}"></i>'
        f"<span>{ERROR_FULL_SCALE} of 255 levels and more</span></p>"
    )
    intro = f"Clip, avatar, and the mean error of each pixel, amplified {255 // ERROR_FULL_SCALE} times."
    return section("Held-out frames", intro, legend + "".join(rows))


def _mouths(mouths: Sequence[MouthCrop]) -> str:
    if not mouths:
        return ""
    kinds: list[tuple[str, list[np.ndarray | None]]] = [
        ("clip", [m.truth for m in mouths]),
        ("tracked", [m.tracked for m in mouths]),
    ]
    if any(m.speech is not None for m in mouths):
        kinds.append(("from speech", [m.speech for m in mouths]))
    head = "<tr><th></th>" + "".join(f"<th>{m.frame}</th>" for m in mouths) + "</tr>"
    body = "".join(
        f"<tr><th>{kind}</th>"
        + "".join(
            f"<td>{MISSING if crop is None else picture_tag(crop, MOUTH_PX, f'mouth, {kind}, frame {m.frame}')}</td>"
            for m, crop in zip(mouths, crops, strict=True)
        )
        + "</tr>"
        for kind, crops in kinds
    )
    return section("Mouth", "The same square of the same frames.", wide(f'<table class="sheet">{head}{body}</table>'))


def _novel(views: Sequence[NovelView]) -> str:
    if not views:
        return ""
    cells = "".join(
        f"<figure>{picture_tag(view.rendering, NOVEL_PX, view.label)}"
        f"<figcaption><b>{escape(view.label)}</b> {escape(view.detail)}</figcaption></figure>"
        for view in views
    )
    intro = "Turns and expressions beyond the clip: nothing to score against, but nothing may tear, smear or explode."
    return section("Beyond the clip", intro, f"<div class=novel>{cells}</div>")


def _rows(report: Report) -> str:
    shown = [name for name in ROWS if name in report.rows]
    head = "<tr><th></th>" + "".join(f"<th>{title}</th>" for title, _ in COLUMNS.values()) + "</tr>"
    body = []
    for name in shown:
        cells = [
            MISSING if name == "speech" and key not in SPEECH_COLUMNS else number_text(report.rows[name][key], digits)
            for key, (_, digits) in COLUMNS.items()
        ]
        body.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    meanings = "".join(f"<dt>{name}</dt><dd>{ROW_MEANING[name]}</dd>" for name in shown)
    notes = dict.fromkeys(note for name in shown for note in report.rows[name].get("notes", ()))
    remarks = "".join(f"<p class=remark>{escape(note)}.</p>" for note in notes)
    plots = _per_frame_plot(report, "PSNR", "per_frame", "dB") + _per_frame_plot(report, "SSIM", "per_frame_ssim", "")
    table = wide(f'<table class="numbers">{head}{"".join(body)}</table>')
    return section(
        "Scores",
        "dB of full frames is the mean over frames; of regions, of the error pooled over all frames."
        " The mouth crop is the square around the lips.",
        f"{table}{remarks}<dl class=meanings>{meanings}</dl><div class=plots>{plots}</div>",
    )


def _per_frame_plot(report: Report, score: str, key: str, unit: str) -> str:
    series = tuple(
        Series(name, report.frame_times, np.array(report.rows[name][key]))
        for name in ROWS
        if name in report.rows and name != "speech"
    )
    return line_plot(Plot(f"{score} of each held-out frame", "seconds in the clip", unit, series))


def _regions(report: Report) -> str:
    row = report.rows["tracked"]
    body = []
    for name in reversed(REGIONS):
        share = 100 * row["error_share"][name]
        sharp = _percent(row["sharpness"][name])
        bar = f'<span class=bar><i style="width:{share:.1f}%"></i></span><em>{share:.0f} %</em>'
        likeness = (number_text(row[name], 2), number_text(row["region_ssim"][name], 3))
        cells = (*likeness, f"{number_text(sharp, 0)}{'' if sharp is None else ' %'}")
        body.append(
            f"<tr><th>{COLUMNS[name][0]}</th>{''.join(f'<td>{c}</td>' for c in cells)}<td class=share>{bar}</td></tr>"
        )
    head = "<tr><th></th><th>PSNR dB</th><th>SSIM</th><th>sharpness</th><th>share of error</th></tr>"
    intro = "Where the remaining error sits, and where detail is lost."
    return section("Regions", intro, wide(f'<table class="numbers">{head}{"".join(body)}</table>'))


def _speech(report: Report) -> str:
    if report.speech is None:
        return ""
    scores = report.speech
    found: Mapping[str, float] = scores["correlation"]
    gain = number_text(_percent(scores["gain"]), 0)
    facts = (
        ("mean correlation", number_text(scores["correlation_mean"], 2)),
        ("coefficients that move", str(scores["active"])),
        ("mean absolute error", number_text(scores["mae"], 3)),
        ("size of the motion", MISSING if scores["gain"] is None else f"{gain} %"),
    )
    entries = "".join(
        f'<li><span>{escape(name)}</span><span class=bar><i style="width:{100 * max(value, 0.0):.0f}%"></i></span>'
        f"<b>{number_text(value, 2)}</b></li>"
        for name, value in sorted(found.items(), key=lambda entry: -entry[1])
    )
    intro = "Coefficients from sound alone against the tracked ones, on the held-out part."
    plots = "".join(line_plot(plot) for plot in report.speech_curves)
    body = f"{_facts(facts)}<ul class=bars>{entries}</ul><div class=plots>{plots}</div>"
    return section("Speech", intro, body)


def _plots(title: str, intro: str, plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    return section(title, intro, f"<div class=plots>{''.join(line_plot(plot) for plot in plots)}</div>")


def _timings(report: Report) -> str:
    longest = max(report.seconds.values(), default=0.0) or 1.0
    entries = "".join(
        f'<li><span>{escape(stage)}</span><span class=bar><i style="width:{100 * seconds / longest:.1f}%"></i></span>'
        f"<b>{_duration(seconds)}</b></li>"
        for stage, seconds in report.seconds.items()
    )
    intro = f"{_duration(report.seconds_fit)} in all, on {escape(report.device)}."
    return section("Where the time went", intro, f"<ul class=bars>{entries}</ul>")


def _settings(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    table = _facts((name, str(value)) for name, value in _flat(settings))
    return f"<section><details><summary><h2>Settings</h2></summary>{table}</details></section>"


def _provenance(report: Report) -> str:
    source = report.provenance
    facts = [
        ("clip", source.source_name),
        ("SHA-256 of the clip", source.source_sha256),
        ("made with", f"avatar {source.tool_version}"),
        ("created", source.created),
        *((name, str(value)) for name, value in source.extra.items()),
        *((name, str(value)) for name, value in report.facts.items()),
        ("consent", source.consent),
    ]
    return section("Provenance", "", _facts(facts))


def section(title: str, intro: str, body: str) -> str:
    """A part of the page under its heading; `title` is escaped, the rest is HTML."""
    return f"<section><h2>{escape(title)}</h2>{f'<p class=intro>{intro}</p>' if intro else ''}{body}</section>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl class=facts>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"


def wide(table: str) -> str:
    """A table that scrolls sideways inside itself on a narrow screen."""
    return f"<div class=wide>{table}</div>"


def picture_tag(image: np.ndarray, side: int, description: str) -> str:
    """The picture as an ``<img>`` of at most `side` px (mouths of exactly `MOUTH_PX`)."""
    smaller = resized(image, side) if max(image.shape[:2]) > side or side == MOUTH_PX else image
    height, width = smaller.shape[:2]
    return f'<img src="{jpeg_uri(smaller)}" width="{width}" height="{height}" alt="{escape(description)}">'


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def number_text(value: float | None, digits: int) -> str:
    """A number with a real minus sign, or a dash."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * ratio


def _rms(decibels: float) -> str:
    """Root mean square error that a PSNR stands for, as a share of the full range."""
    return f"{100 * 10 ** (-decibels / 20):.1f} % of full range"


def _clock(seconds: float) -> tuple[str, str]:
    """A duration as a number and its unit."""
    if seconds < 9.95:
        return f"{seconds:.1f}", "s"
    if seconds < 99.5:
        return f"{seconds:.0f}", "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}", "min"
    return f"{minutes // 60}:{minutes % 60:02}", "h"


def _duration(seconds: float) -> str:
    return " ".join(_clock(seconds))
