"""What a report holds, and the plots it draws from tracks and coefficient curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from avatar.conventions import BLENDSHAPES
from avatar.evaluate.novel import NovelView
from avatar.evaluate.svg_plot import Plot, Series
from avatar.track import head_angles
from avatar.types import Finding, Provenance, Track

ROWS: Final = ("tracked", "driven", "refined", "speech")
"""Rows of a report: motion from tracking alone (the scores that count); its coefficients and poses without its
appearance codes; all of it also refined against the avatar on the frame itself; mouth motion from speech alone."""

SHOWN_COEFFICIENTS: Final = 6
"""Coefficient curves drawn: those that move most, left and right counted as one."""

SPEECH_SHOWN: Final = ("jawOpen", "mouthFunnel", "mouthPucker", "mouthSmileLeft")
"""Coefficients whose speech-driven curve is drawn over the tracked one: opening, rounding twice, widening."""


@dataclass(frozen=True)
class HeldOutFrame:
    """One held-out frame beside the clip's own."""

    frame: int
    """Frame number of the clip."""
    label: str
    """Why it is shown: 'best', 'median', 'worst', ..."""
    psnr: float
    """Of the rendering, dB."""
    truth: UInt8[np.ndarray, "H W 3"]
    rendering: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class MouthCrop:
    """The same square around the mouth in the clip and in the renderings (`pictures.crop_square`)."""

    frame: int
    """Frame number of the clip."""
    truth: UInt8[np.ndarray, "S S 3"]
    tracked: UInt8[np.ndarray, "S S 3"]
    speech: UInt8[np.ndarray, "S S 3"] | None = None


@dataclass(frozen=True)
class Report:
    """Everything `avatar eval` has to say about one avatar on one clip."""

    name: str
    rows: Mapping[str, Mapping[str, Any]]
    """Row name (`ROWS`) -> `metrics.Scores.result()`. The tracked row is required."""
    size: int
    """Width and height of the scored frames in pixels."""
    frame_times: Float[np.ndarray, " M"]
    """Times of the scored frames in the clip, seconds."""
    clip_name: str
    """Of the clip that was scored."""
    provenance: Provenance
    """Of the avatar, which may come from another clip."""
    device: str
    """What the fit ran on, in words."""
    seconds: Mapping[str, float]
    """Wall time of each stage of the fit, in the order they ran."""
    seconds_fit: float
    """Wall time of the whole fit."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The fit's settings, nested as in the config."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Anything worth a line beside the provenance: number of Gaussians, file size, clip length."""
    findings: tuple[Finding, ...] = ()
    curves: tuple[Plot, ...] = ()
    """Training curves over steps: loss, held-out PSNR."""
    motion: tuple[Plot, ...] = ()
    """`motion_plots` of the track."""
    speech: Mapping[str, Any] | None = None
    """`metrics.compare_coefficients` of speech-driven against tracked coefficients on the held-out part."""
    speech_curves: tuple[Plot, ...] = ()
    """`speech_plots` of the same."""
    frames: tuple[HeldOutFrame, ...] = ()
    mouths: tuple[MouthCrop, ...] = ()
    novel: tuple[NovelView, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.rows) - set(ROWS)
        if unknown or "tracked" not in self.rows:
            raise ValueError(f"rows must be 'tracked' and any of {ROWS}, not {sorted(self.rows)}")
        if len(self.frame_times) != self.rows["tracked"]["frames"]:
            raise ValueError(f"{len(self.frame_times)} times for {self.rows['tracked']['frames']} scored frames")


def most_moving(coefficients: Float[np.ndarray, "N 52"], count: int = SHOWN_COEFFICIENTS) -> list[int]:
    """Columns that vary most, the livelier one of each left/right pair, most first."""
    best: dict[str, int] = {}
    spread = coefficients.std(axis=0)
    for index, name in enumerate(BLENDSHAPES):
        stem = name.removesuffix("Left").removesuffix("Right")
        if stem not in best or spread[index] > spread[best[stem]]:
            best[stem] = index
    return sorted(best.values(), key=lambda index: -spread[index])[:count]


def motion_plots(track: Track, held_out_from: float | None = None) -> tuple[Plot, ...]:
    """Head angles, head position, and the coefficients that move most, over the clip.

    Args:
        track: the tracking stage's result.
        held_out_from: time in seconds from which the clip is held out; tinted in the plots.
    """
    times = np.asarray(track.times, dtype=np.float64)
    angles, position = np.degrees(head_angles(track.camera_from_head)), track.camera_from_head[:, :3, 3]
    drift = position - np.median(position, axis=0)

    def plot(title: str, unit: str, curves: Mapping[str, np.ndarray]) -> Plot:
        series = tuple(Series(label, times, values) for label, values in curves.items())
        return Plot(title, "seconds", unit, series, shaded_from=held_out_from)

    chosen = most_moving(track.coefficients)
    half = (len(chosen) + 1) // 2
    groups = [{BLENDSHAPES[k]: track.coefficients[:, k] for k in part} for part in (chosen[:half], chosen[half:])]
    return (
        plot("Head rotation", "degrees", dict(zip(("yaw (right)", "pitch (down)", "roll"), angles.T, strict=True))),
        plot("Head position around its median", "cm", dict(zip(("right", "down", "away"), drift.T, strict=True))),
        plot("Coefficients that move most", "0 to 1", groups[0]),
        plot("The next ones", "0 to 1", groups[1]),
    )


def speech_plots(
    times: Float[np.ndarray, " N"],
    predicted: Float[np.ndarray, "N K"],
    truth: Float[np.ndarray, "N K"],
    names: Sequence[str],
) -> tuple[Plot, ...]:
    """Speech-driven against tracked curves of the coefficients that shape a mouth most (`SPEECH_SHOWN`).

    Args:
        times: seconds in the clip of the N frames.
        predicted: coefficients from speech alone, 0..1.
        truth: tracked coefficients of the same frames.
        names: the K columns' names.
    """
    plots = []
    for name in SPEECH_SHOWN:
        if name not in names:
            continue
        k = list(names).index(name)
        series = (Series("tracked", times, truth[:, k]), Series("from speech", times, predicted[:, k]))
        plots.append(Plot(name, "seconds", "0 to 1", series))
    return tuple(plots)
