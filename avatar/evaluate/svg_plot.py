"""Line plots as inline SVG: axes, ticks, a legend and nothing else. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from jaxtyping import Float, Shaped

WIDTH: Final = 420
HEIGHT: Final = 190
LEFT: Final = 52
RIGHT: Final = 8
TOP: Final = 8
BOTTOM: Final = 34
"""Size and margins of a plot in SVG units; text is 11 units, so a plot stays readable at phone width."""

MAX_POINTS: Final = 600
"""Points drawn per curve: more than one per pixel shows nothing and makes the page heavy."""

COLOURS: Final = 5
"""Series colours that the style sheet knows (classes c0..c4)."""


@dataclass(frozen=True)
class Series:
    """One curve; points whose y is not finite leave a gap."""

    label: str
    x: Shaped[np.ndarray, " P"]
    y: Shaped[np.ndarray, " P"]


@dataclass(frozen=True)
class Plot:
    """Curves over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_y: bool = False
    """Logarithmic y axis; values must be positive to be drawn."""
    shaded_from: float | None = None
    """x from which the ground is tinted (the held-out part of the clip)."""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]


def line_plot(plot: Plot) -> str:
    """The plot as an HTML ``<figure>`` with an inline SVG; a plot without a single finite point says so."""
    curves = [_finite(series, plot.log_y) for series in plot.series]
    points = np.concatenate([c[:, np.isfinite(c).all(axis=0)] for c in curves], axis=1) if curves else np.zeros((2, 0))
    caption = f"<figcaption>{escape(plot.title)}{_legend(plot)}</figcaption>"
    if not points.shape[1]:
        return f'<figure class="plot">{caption}<p class="empty">Nothing was measured.</p></figure>'
    x_axis = _axis(points[0], padding=0.0)
    y_axis = _log_axis(points[1]) if plot.log_y else _axis(points[1], padding=0.04)
    to_x = _scale(x_axis, float(LEFT), float(WIDTH - RIGHT))
    to_y = _scale(y_axis, float(HEIGHT - BOTTOM), float(TOP))
    drawn = [_shade(plot, x_axis, to_x), _grid(plot, x_axis, y_axis, to_x, to_y)]
    for i, curve in enumerate(curves):
        drawn.append(f'<path class="line c{i % COLOURS}" d="{_path(_thinned(curve), to_x, to_y)}"/>')
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">{"".join(drawn)}</svg>'
    return f'<figure class="plot">{caption}{svg}</figure>'


def _finite(series: Series, log_y: bool) -> Float[np.ndarray, "2 P"]:
    """The curve as float rows x, y (log10 of y where asked), with NaN where it cannot be drawn."""
    x, y = series.x.astype(np.float64), series.y.astype(np.float64)
    if log_y:
        y = np.log10(np.where(y > 0, y, np.nan))
    return np.stack((x, np.where(np.isfinite(x) & np.isfinite(y), y, np.nan)))


def _thinned(curve: Float[np.ndarray, "2 P"]) -> Float[np.ndarray, "2 Q"]:
    """At most about `MAX_POINTS` points: the lowest and the highest of each stretch, so that no spike is lost."""
    count = curve.shape[1]
    if count <= MAX_POINTS:
        return curve
    keep: set[int] = {0, count - 1}
    for part in np.array_split(np.arange(count), MAX_POINTS // 2):
        y = curve[1, part]
        if np.isfinite(y).any():
            keep |= {int(part[np.nanargmin(y)]), int(part[np.nanargmax(y)])}
        if not np.isfinite(y).all():  # keeps the gap
            keep.add(int(part[np.flatnonzero(~np.isfinite(y))[0]]))
    return curve[:, sorted(keep)]


def _path(curve: Float[np.ndarray, "2 P"], to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    commands, pen_down = [], False
    for x, y in curve.T:
        if not np.isfinite(y):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{to_x(x):.1f} {to_y(y):.1f}")
        pen_down = True
    if len(commands) == 1:  # a dot, through the round line cap
        commands.append("h0.01")
    return "".join(commands)


def _axis(values: Float[np.ndarray, " P"], padding: float) -> _Axis:
    """Range and round tick values; a constant curve gets room around it."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    room = padding * (high - low)
    low, high = low - room, high + room
    step = _round_step((high - low) / 4)
    first = int(np.ceil(low / step - 1e-9))
    ticks = tuple(step * k for k in range(first, int(np.floor(high / step + 1e-9)) + 1))
    return _Axis(low, high, ticks)


def _log_axis(exponents: Float[np.ndarray, " P"]) -> _Axis:
    """Axis over log10 values with ticks at 1, 2 and 5 of each decade, at the decades alone where those are many."""
    low, high = float(exponents.min()) - 0.05, float(exponents.max()) + 0.05
    marks = (1,) if high - low > 3 else (1, 2, 5)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = tuple(float(decade + np.log10(m)) for decade in decades for m in marks)
    return _Axis(low, high, tuple(t for t in ticks if low <= t <= high))


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `step`."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9)))


def _scale(axis: _Axis, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - axis.low) / (axis.high - axis.low) * (end - start)


def _grid(
    plot: Plot, x_axis: _Axis, y_axis: _Axis, to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y, value = to_y(tick), 10**tick if plot.log_y else tick
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{number(value)}</text>')
    for tick in x_axis.ticks:
        x = min(max(to_x(tick), LEFT + 4), WIDTH - RIGHT - 10)
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 14}">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="mid label" x="{middle}" y="{HEIGHT - 5}">{escape(plot.x_label)}</text>')
    y_middle = (TOP + bottom) / 2
    turned = f'transform="translate(10 {y_middle}) rotate(-90)"'
    parts.append(f'<text class="mid label" {turned}>{escape(plot.y_label)}</text>')
    return "".join(parts)


def _shade(plot: Plot, x_axis: _Axis, to_x: Callable[[float], float]) -> str:
    if plot.shaded_from is None or plot.shaded_from >= x_axis.high:
        return ""
    left = to_x(max(plot.shaded_from, x_axis.low))
    return (
        f'<rect class="shade" x="{left:.1f}" y="{TOP}" width="{WIDTH - RIGHT - left:.1f}"'
        f' height="{HEIGHT - BOTTOM - TOP}"/>'
    )


def _legend(plot: Plot) -> str:
    entries = [f'<i class="key k{i % COLOURS}"></i>{escape(s.label)}' for i, s in enumerate(plot.series)]
    if len(plot.series) < 2:
        entries = []
    if plot.shaded_from is not None:
        entries.append('<i class="key ks"></i>held out')
    return f'<span class="legend">{"".join(f"<span>{e}</span>" for e in entries)}</span>' if entries else ""


def number(value: float) -> str:
    """A tick's number without trailing zeros or a minus zero."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 100_000:
        return f"{value:.0e}".replace("e+0", "e")
    return f"{value:.4g}".replace("-", "−")
