"""Scores an avatar on the held-out part of a clip: full frame, against the untouched clip, nothing real pasted in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avatar.conventions import MOUTH_BLENDSHAPES, MOUTH_INDICES
from avatar.dataset import FrameSet
from avatar.evaluate.comparison import ShownFrame
from avatar.evaluate.landmark_distance import LandmarkDistance
from avatar.evaluate.metrics import Scores, compare_coefficients, representative_frames
from avatar.evaluate.novel import NovelView, novel_views
from avatar.evaluate.pictures import Box, crop_square
from avatar.evaluate.preview import preview_frames
from avatar.evaluate.report_data import HeldOutFrame, MouthCrop, speech_plots
from avatar.evaluate.svg_plot import Plot
from avatar.files import replacing, replacing_folder
from avatar.model import Avatar, own_motion
from avatar.progress import SILENT, Reporter
from avatar.speech import heard_frames, predict_mouth
from avatar.train.refine import refine_motion
from avatar.types import Motion

MOUTH_CROPS = 8
STRETCH = 60
"""Neighbouring frames that are scored together where not all are: jitter and refinement need neighbours."""


@dataclass(frozen=True)
class HeldOut:
    """What evaluation found."""

    rows: dict[str, dict[str, Any]]
    """Row name -> scores."""
    frames: tuple[HeldOutFrame, ...]
    mouths: tuple[MouthCrop, ...]
    novel: tuple[NovelView, ...]
    speech: dict[str, Any] | None
    speech_curves: tuple[Plot, ...]
    times: np.ndarray


def evaluated_indices(frames: FrameSet, most: int | None = None) -> np.ndarray:
    """The held-out frames, or all frames with a face if the tracker found none among the held-out ones; of more than
    `most`, that many at most, in stretches of STRETCH that are spread evenly."""
    held_out = frames.held_out_indices if len(frames.held_out_indices) else frames.train_indices
    if most is None or len(held_out) <= most:
        return held_out
    length = min(STRETCH, most)
    starts = np.linspace(0, len(held_out) - length, most // length).round().astype(int)
    return held_out[(starts[:, None] + np.arange(length)).ravel()]


def tracked_motion(avatar: Avatar, frames: FrameSet, indices: np.ndarray) -> Motion:
    """The motion as the tracking stage gives it.

    Appearance codes mean something in the track that taught them alone: the avatar's own, of the clip it was made from.
    For another clip there are none."""
    own, codes = avatar.motion, None
    same = avatar.metadata.provenance.source_sha256 == frames.capture.source_sha256
    if own is not None and same and np.array_equal(own.times, frames.track.times):
        codes = own.codes
    return replace(own_motion(frames.track), codes=codes).at(indices)


def speech_motion(avatar: Avatar, frames: FrameSet, indices: np.ndarray) -> Motion | None:
    """The tracked motion with the mouth from speech alone; None without sound or speech model."""
    audio, features = frames.capture.audio, frames.speech
    if avatar.speech is None or audio is None or features is None:
        return None
    tracked = tracked_motion(avatar, frames, indices)
    coefficients = tracked.coefficients.copy()
    coefficients[:, list(MOUTH_INDICES)] = predict_mouth(
        avatar.speech, avatar.person, audio, tracked.times, offset_seconds=features.offset_seconds
    )
    return Motion(tracked.times, coefficients, tracked.camera_from_head, tracked.camera_from_torso)


def render_as_clip(
    avatar: Avatar, frames: FrameSet, motion: Motion, indices: np.ndarray
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Draws through the camera of the clip's own tracking (the same as the avatar's for the clip it was made from),
    with the exposure of the frames whose numbers are given."""
    for index, image in zip(indices, avatar.frames(motion, camera=frames.camera), strict=True):
        yield frames.exposure.applied(image, int(index))


def evaluate(
    avatar: Avatar,
    frames: FrameSet,
    reporter: Reporter = SILENT,
    save_frames: Path | None = None,
    most: int | None = None,
) -> HeldOut:
    """Scores the rows *tracked*, *driven*, *refined* and *speech* over the held-out frames.

    Args:
        most: of frames, see `evaluated_indices`; None scores all.
        save_frames: folder for the tracked row's pictures, ``render/%06d.png`` and ``truth/%06d.png`` by frame number.
    Raises:
        UserError: `save_frames` cannot be written.
    """
    indices = evaluated_indices(frames, most)
    if save_frames is None:
        return _evaluate(avatar, frames, indices, reporter, None)
    with replacing_folder(save_frames) as partial:
        return _evaluate(avatar, frames, indices, reporter, partial)


def _evaluate(
    avatar: Avatar, frames: FrameSet, indices: np.ndarray, reporter: Reporter, save_frames: Path | None
) -> HeldOut:
    spoken = speech_motion(avatar, frames, indices)
    tracked = tracked_motion(avatar, frames, indices)
    rows = {"tracked": _scored(avatar, frames, indices, tracked, "scoring held-out frames", reporter, save_frames)}
    if tracked.codes is not None:
        blind = replace(tracked, codes=None)
        rows["driven"] = _scored(avatar, frames, indices, blind, "scoring coefficients and poses alone", reporter)
    refined = refined_motion(avatar, frames, indices, tracked, reporter)
    rows["refined"] = _scored(avatar, frames, indices, refined, "scoring refined motion", reporter)
    if spoken is not None:
        rows["speech"] = _scored(avatar, frames, indices, spoken, "scoring speech", reporter)
    speech, curves = None, ()
    if spoken is not None:
        ours, true = (m.coefficients[:, list(MOUTH_INDICES)] for m in (spoken, tracked))
        assert frames.speech is not None
        heard = heard_frames(frames.speech, tracked.times)
        speech = compare_coefficients(ours[heard], true[heard]) if heard.any() else None
        curves = speech_plots(tracked.times, ours, true, MOUTH_BLENDSHAPES)
    return HeldOut(
        rows=rows,
        frames=_shown_frames(avatar, frames, indices, rows["tracked"]["per_frame"]),
        mouths=_mouth_crops(avatar, frames, indices, spoken),
        novel=novel_views(avatar, frames),
        speech=speech,
        speech_curves=curves,
        times=frames.track.times[indices],
    )


def refined_motion(
    avatar: Avatar, frames: FrameSet, indices: np.ndarray, tracked: Motion, reporter: Reporter
) -> Motion:
    """The tracked motion also refined against the frames themselves."""
    pictures = (frames.picture(int(i)) for i in indices)
    with reporter.bar("refining held-out motion", len(indices)) as bar:
        return refine_motion(avatar.model, pictures, tracked, frames.camera, advance=bar.advance)


def _scored(
    avatar: Avatar, frames: FrameSet, indices: np.ndarray, motion: Motion, what: str, reporter: Reporter,
    save_frames: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of one row; its pictures go to `save_frames` where that is given."""
    scores = Scores(LandmarkDistance())
    with reporter.bar(what, len(indices)) as bar:
        for index, image in zip(indices, render_as_clip(avatar, frames, motion, indices), strict=True):
            truth = frames.capture.frames[int(index)]
            labels = frames.track.regions.labels(int(index))
            psnr = scores.add(image, truth, labels, frames.mouth_box(int(index)), int(index))
            if save_frames is not None:
                _save_pair(save_frames, int(index), image, truth)
            bar.advance(note=f"{psnr:.2f} dB")
    return scores.result()


def preview(avatar: Avatar, frames: FrameSet) -> tuple[Iterator[UInt8[np.ndarray, "h w 3"]], np.ndarray]:
    """Frames of truth | tracked | speech-driven over the held-out part, and their frame numbers."""
    indices = evaluated_indices(frames)
    sources = {
        "truth": (frames.capture.frames[int(i)] for i in indices),
        "tracked": render_as_clip(avatar, frames, tracked_motion(avatar, frames, indices), indices),
    }
    spoken = speech_motion(avatar, frames, indices)
    if spoken is not None:
        sources["speech-driven"] = render_as_clip(avatar, frames, spoken, indices)
    return preview_frames(sources), indices


def _shown_frames(
    avatar: Avatar, frames: FrameSet, indices: np.ndarray, per_frame: list[float]
) -> tuple[HeldOutFrame, ...]:
    shown = []
    for label, position in representative_frames(per_frame).items():
        index = indices[[position]]
        image = next(render_as_clip(avatar, frames, tracked_motion(avatar, frames, index), index))
        truth = frames.capture.frames[int(index[0])]
        shown.append(HeldOutFrame(int(index[0]), label, per_frame[position], truth, image))
    return tuple(shown)


def shown_frames(avatar: Avatar, frames: FrameSet, numbers: Sequence[int]) -> tuple[ShownFrame, ...]:
    """The frames of the given numbers as a comparison shows them, tracked motion."""
    if not numbers:
        return ()
    indices = np.asarray(numbers)
    motion = tracked_motion(avatar, frames, indices)
    shown = []
    for number, image in zip(numbers, render_as_clip(avatar, frames, motion, indices), strict=True):
        box, truth = _mouth_square(frames, number), frames.capture.frames[number]
        shown.append(ShownFrame(number, truth, image, crop_square(truth, box), crop_square(image, box)))
    return tuple(shown)


def _mouth_square(frames: FrameSet, index: int) -> Box:
    left, top, right, bottom = frames.mouth_box(index)
    return left, top, max(right - left, bottom - top)


def _mouth_crops(avatar: Avatar, frames: FrameSet, indices: np.ndarray, spoken: Motion | None) -> tuple[MouthCrop, ...]:
    """Evenly spaced held-out mouths."""
    positions: list[int] = np.unique(np.linspace(0, len(indices) - 1, MOUTH_CROPS).round().astype(int)).tolist()
    tracked = tracked_motion(avatar, frames, indices)
    crops = []
    for position in positions:
        index, one = int(indices[position]), slice(position, position + 1)
        box = _mouth_square(frames, index)
        pictures = [
            crop_square(next(render_as_clip(avatar, frames, motion.at(one), indices[one])), box)
            for motion in (tracked, spoken)
            if motion is not None
        ]
        truth = crop_square(frames.capture.frames[index], box)
        crops.append(MouthCrop(index, truth, pictures[0], pictures[1] if spoken is not None else None))
    return tuple(crops)


def _save_pair(folder: Path, index: int, image: np.ndarray, truth: np.ndarray) -> None:
    for kind, picture in (("render", image), ("truth", truth)):
        with replacing(folder / kind / f"{index:06d}.png") as partial:
            Image.fromarray(picture).save(partial)
