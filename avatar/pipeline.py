"""From a clip to an avatar, stage by stage. Read `fit` from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar import __version__
from avatar.capture import capture as run_capture
from avatar.capture import clip_sha256, load_capture
from avatar.config import FitConfig, checked
from avatar.conventions import BRANCHES, SAMPLE_RATE
from avatar.cores import usable_threads
from avatar.dataset import FrameSet
from avatar.errors import UserError
from avatar.evaluate.held_out import HeldOut, evaluate, preview
from avatar.evaluate.report import Report, write_report
from avatar.evaluate.report_data import motion_plots
from avatar.evaluate.svg_plot import Plot, Series
from avatar.media import write_video
from avatar.model import Avatar, AvatarModel, Metadata, add_lining, add_prior, baked, initial_model, own_motion
from avatar.progress import SILENT, Reporter
from avatar.raster import check_backend
from avatar.raster.device import describe_device, resolve_device
from avatar.run_folder import RunFolder, open_run
from avatar.speech import (
    SpeechEncoder,
    SpeechFeatures,
    SpeechTrainConfig,
    encoded_sound,
    load_encoder,
    load_speech,
    person_statistics,
    speech_features,
    train_speech,
)
from avatar.track import load_track
from avatar.track import track as run_track
from avatar.track.detect import check_landmarker
from avatar.train import Trainer, checkpoint_path, load_checkpoint, read_metrics
from avatar.types import Capture, Provenance, Track

REPORTED_FRAMES = 240
"""A fit scores at most so many of its held-out frames: all of them, where a clip has minutes, would take longer than
the training. `avatar eval` scores all."""


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves."""

    run_folder: Path
    avatar: Avatar
    avatar_path: Path
    finished: bool
    """False if Ctrl-C ended the fit early: the avatar is usable, `--resume` continues."""
    psnr: float | None
    """Held-out score of the tracked row, dB; None if interrupted."""


def fit(
    clip: str | Path,
    run_folder: str | Path | None = None,
    config: FitConfig | None = None,
    resume: bool = False,
    face_landmarker: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> FitResult:
    """Turns a clip of someone talking into an avatar of them.

    Args:
        clip: any common video file.
        run_folder: where everything goes; None is ``runs/<clip name>``. The avatar is ``<folder name>.avatar`` in it.
        config: settings, see `config.load_preset`; None is the defaults.
        resume: continue the run in the folder from its last checkpoint.
        face_landmarker: Google's ``face_landmarker.task``, used for tracking instead of the built-in solver.
    Raises:
        UserError: anything about the clip, the folder or the settings that the caller can mend.
    """
    config, clip = checked(FitConfig() if config is None else config), Path(clip)
    device = resolve_device(config.device)
    check_backend(config.rasterizer, device)
    folder = Path(run_folder) if run_folder is not None else Path("runs") / clip.stem
    task = Path(face_landmarker) if face_landmarker is not None else None
    if task is not None:
        check_landmarker(task)  # before the clip is read, which takes long
    encoder = load_encoder(Path(config.speech.encoder), device) if config.speech.encoder else None
    run = open_run(folder, clip, clip_sha256(clip), config, task is not None, resume)

    with _timed(run, "capture"):
        capture = capture_stage(clip, run, reporter)
    if not resume:
        run.discard_training()
    run.save()  # only now: a clip that cannot be used leaves no run behind
    with _timed(run, "track"):
        track = track_stage(capture, run, task, reporter)
    for finding in (*capture.findings, *track.findings):
        reporter.finding(finding)
    with _timed(run, "speech features"):
        speech = speech_stage(capture, track, run, reporter)

    frames = FrameSet(capture, track, device, speech)
    if frames.exposure.drifts:
        reporter.say(f"The camera's exposure drifts by {frames.exposure.spread:.1%}; this is taken out.")
    with _timed(run, "training"):
        trainer = train_stage(frames, run, resume, reporter)
        model, motion_facts = finished_model(trainer, reporter)
    model.measure_limits(frames.training_motion())
    avatar = Avatar(
        model,
        new_metadata(run, capture, track),
        person_statistics(track),
        speech=None,
        motion=own_motion(track),
    )
    avatar.save(run.avatar)  # usable from here on, whatever is interrupted
    psnr = None
    if trainer.step >= config.train.steps:
        try:
            with _timed(run, "speech model"):
                avatar, speech_scores = with_speech_model(avatar, frames, config, reporter)
                if encoder is not None:
                    avatar = with_encoded_speech(avatar, frames, encoder, config, reporter)
            avatar.save(run.avatar)
            with _timed(run, "scores"):
                found = evaluate(avatar, frames, reporter, most=REPORTED_FRAMES)
            avatar.metadata = dataclasses.replace(avatar.metadata, scores=headline_scores(found))
            avatar.save(run.avatar)
            with _timed(run, "preview"):
                preview_stage(avatar, frames, run, reporter)
            facts = motion_facts | speech_facts(speech_scores)
            write_report(new_report(run.avatar, avatar, found, frames, run, training_plots(run.path), facts), folder)
            psnr = found.rows["tracked"]["psnr"]
        except KeyboardInterrupt:
            pass  # --resume finds training finished and does the rest
    run.save()
    return FitResult(folder, avatar, run.avatar, psnr is not None, psnr)


def capture_stage(clip: Path, run: RunFolder, reporter: Reporter) -> Capture:
    """Decoded frames and sound; those of an earlier run of the same clip are used again."""
    if run.capture.is_dir():
        return load_capture(run.capture)
    return run_capture(clip, run.capture, run.config.size, reporter)


def track_stage(capture: Capture, run: RunFolder, face_landmarker: Path | None, reporter: Reporter) -> Track:
    """Camera, head pose, coefficients and regions; those of an earlier run are used again."""
    if run.track.is_file():
        return load_track(run.track)
    return run_track(capture, run.track, reporter, face_landmarker)


def speech_stage(capture: Capture, track: Track, run: RunFolder, reporter: Reporter) -> SpeechFeatures | None:
    """Log-mel features of the clip's sound; None without sound, which is among the capture's findings."""
    if capture.audio is None:
        return None
    if run.speech.is_file():
        return load_speech(run.speech)
    return speech_features(capture, track, run.speech, reporter)


def train_stage(frames: FrameSet, run: RunFolder, resume: bool, reporter: Reporter) -> Trainer:
    """The model, fitted until the last step or Ctrl-C."""
    if len(frames.train_indices) == 0:
        raise UserError("The clip is too short: no frame is left for training after holding out the end.")
    config = run.config
    model = initial_model(frames, config.model, config.train.seed)
    model.rasterizer = config.rasterizer
    trainer = Trainer(frames, model, config, run.path, reporter)
    if resume:
        load_checkpoint(trainer, checkpoint_path(run.path))
        reporter.say(f"resuming at step {trainer.step} of {config.train.steps}")
    trainer.run()
    return trainer


def finished_model(trainer: Trainer, reporter: Reporter) -> tuple[AvatarModel, dict[str, str]]:
    """The fitted model with what lies beyond its clip (lining, geometric prior) and with linear bases, to which a
    `hashgrid` is baked; what that cost, for the report."""
    model, facts = trainer.model.eval().requires_grad_(False), {}
    if model.fields:
        before, _ = trainer.score()
        settings, motion = trainer.config.model, trainer.frames.training_motion()
        bases = {name: getattr(settings, name).bases for name in BRANCHES}
        model = trainer.model = baked(model, motion, bases, settings.driver_hidden)
        after, _ = trainer.score()
        text = f"{before:.2f} dB before, {after:.2f} dB with linear bases, on a few held-out frames"
        reporter.say(f"motion field baked: {text}")
        facts["motion field baked"] = text
    add_lining(model, trainer.frames)
    add_prior(model, trainer.frames.track)
    return model, facts


def with_speech_model(
    avatar: Avatar, frames: FrameSet, config: FitConfig, reporter: Reporter
) -> tuple[Avatar, dict[str, Any]]:
    """The avatar with an audio-to-expression model of its person, if the clip has sound enough to learn from, and
    what `train_speech` scored."""
    if frames.speech is None or not config.speech.enabled:
        return avatar, {}
    try:
        settings = SpeechTrainConfig(steps=config.speech.steps)
        model, scores = train_speech(
            frames.speech, frames.track, settings, reporter, config.train.seed, frames.held_out_seconds
        )
    except UserError as error:  # too little speech: the avatar itself is none the worse
        reporter.warn(f"The speech model is skipped. {error}")
        return avatar, {}
    metadata = dataclasses.replace(avatar.metadata, speech=model.config_dict())
    return dataclasses.replace(avatar, metadata=metadata, speech=model), scores


def with_encoded_speech(
    avatar: Avatar, frames: FrameSet, encoder: SpeechEncoder, config: FitConfig, reporter: Reporter
) -> Avatar:
    """The avatar with a second speech model, which also hears a speech encoder."""
    audio, features = frames.capture.audio, frames.speech
    if avatar.speech is None or audio is None or features is None:
        return avatar
    heard = dataclasses.replace(features, encoded=encoded_sound(encoder, audio, reporter))
    settings = SpeechTrainConfig(steps=config.speech.steps)
    model, _ = train_speech(heard, frames.track, settings, reporter, config.train.seed, frames.held_out_seconds)
    note = {"name": encoder.name, "sha256": encoder.sha256, "settings": model.config_dict()}
    metadata = dataclasses.replace(avatar.metadata, encoded=note)
    return dataclasses.replace(avatar, metadata=metadata, encoded=model)


def preview_stage(avatar: Avatar, frames: FrameSet, run: RunFolder, reporter: Reporter) -> None:
    """`preview.mp4`: truth | tracked | speech-driven over the held-out part, with its sound."""
    pictures, indices = preview(avatar, frames)
    audio = frames.capture.audio
    if audio is not None:
        start, end = frames.track.times[indices[0]], frames.track.times[indices[-1]] + 1 / frames.capture.fps
        audio = audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]

    def counted() -> Iterator[np.ndarray]:
        with reporter.bar("writing the preview", len(indices)) as bar:
            for picture in pictures:
                yield picture
                bar.advance()

    write_video(run.preview, counted(), frames.capture.fps, audio=audio)


def new_metadata(run: RunFolder, capture: Capture, track: Track) -> Metadata:
    """The header of a new avatar file."""
    reference = track.reference_frame
    return Metadata(
        camera=track.camera,
        provenance=Provenance(
            source_name=capture.source_name,
            source_sha256=capture.source_sha256,
            tool_version=__version__,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        fps=capture.fps,
        reference_pose={
            "camera_from_head": track.camera_from_head[reference, :3].tolist(),
            "camera_from_torso": track.camera_from_torso[reference, :3].tolist(),
        },
        hidden=run.config.model.driver_hidden,
    )


def headline_scores(found: HeldOut) -> dict[str, dict[str, float | None]]:
    """Row -> the scores worth keeping in the avatar's header."""
    keys = ("psnr", "ssim", "head", "mouth", "mouth_crop", "torso", "background", "lmd")
    return {row: {key: scores[key] for key in keys} for row, scores in found.rows.items()}


def speech_facts(scores: dict[str, Any]) -> dict[str, str]:
    """How the speech model compares with the plainest ways to predict a mouth, for the report."""
    rows = {"the model": scores, **{name: scores.get(name) for name in ("energy", "nearest", "mean_face")}}
    known = {name: row for name, row in rows.items() if row and "jaw_correlation" in row}
    text = "; ".join(f"{n} {r['jaw_correlation']:.2f} / {r['mouth_correlation']:.2f}" for n, r in known.items())
    return {"mouth from speech, correlation of jawOpen / mean": text} if text else {}


def new_report(
    path: Path,
    avatar: Avatar,
    found: HeldOut,
    frames: FrameSet,
    run: RunFolder,
    curves: tuple[Plot, ...] = (),
    more_facts: dict[str, str] | None = None,
) -> Report:
    """Everything that is known of the avatar file at `path` after a fit, or (without `curves` and `more_facts`) after
    an evaluation alone."""
    capture, findings = frames.capture, (*frames.capture.findings, *frames.track.findings)
    facts = {
        "Gaussians": ", ".join(f"{name} {avatar.model.branch(name).count}" for name in BRANCHES),
        "clip length": f"{capture.times[-1]:.1f} s at {capture.fps:.2f} frames per second",
    }
    if frames.speech is not None:
        offset = 1000 * frames.speech.offset_seconds
        late = "late" if offset > 0 else "early"
        facts["sound against picture"] = f"{abs(offset):.0f} ms {late}, taken off" if offset else "no offset"
    if path.is_file():
        facts["file size"] = f"{path.stat().st_size / 1e6:.1f} MB"
    return Report(
        name=path.stem,
        rows=found.rows,
        size=capture.size,
        frame_times=found.times,
        clip_name=capture.source_name,
        provenance=avatar.metadata.provenance,
        device=describe_device(frames.device),
        seconds=run.seconds,
        seconds_fit=sum(run.seconds.values(), 0.0),
        settings=dataclasses.asdict(run.config),
        facts=facts | (more_facts or {}),
        findings=findings,
        curves=curves,
        motion=motion_plots(frames.track, frames.held_out_seconds),
        speech=found.speech,
        speech_curves=found.speech_curves,
        frames=found.frames,
        mouths=found.mouths,
        novel=found.novel,
    )


def training_plots(run_folder: Path) -> tuple[Plot, ...]:
    """Loss and running score over steps."""
    lines = read_metrics(run_folder)

    def series(key: str, label: str) -> Series:
        points = [(line["step"], line[key]) for line in lines if key in line]
        steps, values = np.array(points, float).reshape(-1, 2).T
        return Series(label, steps, values)

    return (
        Plot("Held-out score of a few frames", "step", "dB", (series("held_out/psnr", "PSNR"),)),
        Plot("Loss", "step", "", (series("loss/l1", "L1"), series("loss/dssim", "D-SSIM")), log_y=True),
    )


@contextmanager
def _timed(run: RunFolder, stage: str) -> Iterator[None]:
    """Adds the wall time of a stage to the manifest (a resumed run adds to what was spent before)."""
    start = time.perf_counter()
    try:
        yield
    finally:
        run.seconds[stage] = run.seconds.get(stage, 0.0) + time.perf_counter() - start


def limit_threads() -> None:
    """Torch uses the cores this process may run on, no more (containers often show all of the host's)."""
    torch.set_num_threads(usable_threads())
