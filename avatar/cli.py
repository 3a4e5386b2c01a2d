"""The command line: one dataclass per verb, its fields are the flags.

Exit codes: 0 success, 2 a mistake of the caller's (one sentence on stderr), 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

from avatar.errors import UserError
from avatar.progress import Reporter

Positional = tyro.conf.Positional
DESCRIPTION = "From a clip of someone talking to a talking avatar of them."


@dataclass
class Fit:
    """Turn a clip of someone talking into an avatar of them."""

    clip: Positional[Path]
    """Video of one person talking; a few minutes are best."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Run folder; default runs/NAME. The avatar is FOLDER/FOLDER.avatar."""
    preset: str = "quick"
    """quick, cpu, quality, or a TOML file with differences from the defaults."""
    size: int | None = None
    """Side of the avatar's frame in pixels (default: the preset's)."""
    steps: int | None = None
    """Training steps (default: the preset's)."""
    device: str | None = None
    """auto, cpu or cuda."""
    rasterizer: str | None = None
    """auto, native, reference (slow) or gsplat (needs that package and a GPU)."""
    face_landmarker: Path | None = None
    """Google's face_landmarker.task, to track with it instead of the built-in solver."""
    speech_encoder: Path | None = None
    """Folder of a HuBERT, wav2vec 2.0 or WavLM model (config.json, model.safetensors) to learn speech with too."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint."""

    def run(self) -> int:
        from avatar.config import check_range, load_preset
        from avatar.pipeline import fit, limit_threads

        limit_threads()
        config = load_preset(self.preset)
        if self.size is not None:
            check_range("size", self.size, "--size")
            config = dataclasses.replace(config, size=self.size)
        if self.steps is not None:
            check_range("train.steps", self.steps, "--steps")
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=self.steps))
        if self.device is not None:
            config = dataclasses.replace(config, device=self.device)
        if self.rasterizer is not None:
            config = dataclasses.replace(config, rasterizer=self.rasterizer)
        if self.speech_encoder is not None:
            speech = dataclasses.replace(config.speech, encoder=str(self.speech_encoder))
            config = dataclasses.replace(config, speech=speech)
        reporter = Reporter()
        result = fit(self.clip, self.output, config, self.resume, self.face_landmarker, reporter)
        if not result.finished:
            reporter.say(f"stopped early: {result.avatar_path} is usable; add --resume to the same command to go on")
            return 130
        reporter.say(f"held out: {result.psnr:.2f} dB")
        for path in (result.avatar_path, result.run_folder / "preview.mp4", result.run_folder / "report.html"):
            print(path)
        return 0


@dataclass
class Track:
    """Track a clip: head pose and 52 coefficients as CSV (Live Link Face style) and JSON, with an overlay video."""

    clip: Positional[Path]
    """Video of one person."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder, or name of the files (default the clip's, here): NAME.track.safetensors, .csv, .json, .overlay.mp4."""
    size: int | None = None
    """Side in pixels of the square that is tracked (default: the clip's own, at most 512)."""
    face_landmarker: Path | None = None
    """Google's face_landmarker.task, to track with it instead of the built-in solver."""

    def run(self) -> int:
        from avatar.pipeline import limit_threads
        from avatar.track.clip import write_tracks

        limit_threads()
        for path in write_tracks(self.clip, self.output, self.size, self.face_landmarker, Reporter()):
            print(path)
        return 0


@dataclass
class Eval:
    """Score avatars on the held-out part (the last 1/11) of a clip: full frame, nothing real pasted in."""

    avatar: Positional[Path]
    """The .avatar file."""
    clip: Path
    """The clip it was made from, or another of the same person."""
    others: Positional[tuple[Path, ...]] = ()
    """Further .avatar files, to compare in one table."""
    save_frames: Path | None = None
    """Folder for the scored pictures: render/%06d.png and truth/%06d.png, by frame number."""
    json: Path | None = None
    """File for all scores."""
    html: Path | None = None
    """File for a page of scores and pictures; of several avatars, the same frames side by side."""
    face_landmarker: Path | None = None
    """Google's face_landmarker.task, to track with it instead of the built-in solver."""

    def run(self) -> int:
        from avatar.pipeline import limit_threads
        from avatar.scoring import evaluate_files, print_scores

        limit_threads()
        outputs = (self.save_frames, self.json, self.html)
        avatars = (self.avatar, *self.others)
        print_scores(evaluate_files(avatars, self.clip, *outputs, self.face_landmarker, Reporter()))
        return 0


@dataclass
class Drive:
    """Make an avatar talk: from speech, a motion track, or another video."""

    avatar: Positional[Path]
    """The .avatar file."""
    speech: Positional[Path | None] = None
    """Speech: any sound file, or a video for its sound."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The video to write (default NAME.mp4 after the source)."""
    track: Path | None = None
    """Motion instead of speech: Live Link Face style CSV, or JSON {names, frames: [{time, weights}]}."""
    video: Path | None = None
    """Motion instead of speech: another video of anyone, whose head and expression are followed."""
    pose: str = "generated"
    """With speech: 'generated' (in the person's manner) or 'fixed' head motion, or a CSV or JSON track with head
    rotation."""
    gain: float = 1.0
    """With speech: how far the mouth moves, 1 is the person's own."""
    emotion: str = ""
    """With speech: for example happy:0.6,surprised:0.2; also sad, angry, afraid, disgusted."""
    style: Path | None = None
    """With speech: a track (CSV or JSON) of someone whose rest and range of expression are taken on."""
    edit: Path | None = None
    """JSON track that sets the coefficients it names at the times it names; null leaves one alone."""
    blink: bool = True
    """With speech: blinks at the person's own rate."""
    gaze: str = "generated"
    """With speech: 'generated' (in the person's manner), 'camera' (at the viewer) or 'fixed' (in the head)."""
    seed: int = 0
    """With speech: another number gives other blinks, glances and head motion."""
    speech_encoder: Path | None = None
    """With speech: folder of the speech encoder that the avatar was fitted with (default: does without)."""
    size: int | None = None
    """Side of the video in pixels (default: the avatar's own)."""
    fps: float | None = None
    """Frames per second (default: the clip's the avatar was made from, or the track's own)."""
    refine: bool = True
    """With --video: also fit the motion to the video's pictures where it shows the avatar's own person (slower)."""
    resume: bool = False
    """Go on with an interrupted run of the same output; what it had drawn is kept beside it."""

    def run(self) -> int:
        from avatar.drive import drive
        from avatar.pipeline import limit_threads

        limit_threads()
        print(drive(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, reporter=Reporter()))
        return 0


@dataclass
class Export:
    """Write an avatar in a format that other programs read."""

    avatar: Positional[Path]
    """The .avatar file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder to write into."""
    format: str = "player"
    """player: a page that plays in any browser, offline; ply, spz: splats; glb: splats with morph targets."""
    track: bool = False
    """Instead: the person's own motion as Live Link Face CSV and JSON."""
    single_file: bool = False
    """player: everything in one HTML file."""
    float_bases: bool = False
    """player: motion bases in float32: exact, several times larger."""
    runtime: Path | None = None
    """player: folder of the npm package onnxruntime-web (default: where the set-up puts it)."""
    expression: tuple[str, ...] = ()
    """Formats that hold one expression: coefficients as NAME=VALUE, for example jawOpen=0.5."""

    def run(self) -> int:
        from avatar.export import ExportOptions, check_options, export, export_track, expression
        from avatar.pipeline import limit_threads

        limit_threads()
        options = ExportOptions(
            name=self.avatar.stem,
            avatar_path=self.avatar,
            coefficients=expression(self.expression),
            single_file=self.single_file,
            float_bases=self.float_bases,
            runtime=self.runtime,
            reporter=Reporter(),
        )
        if self.track:
            if self.format != "player":
                raise UserError(f"--track is instead of --format {self.format}; leave one of them out.")
            check_options("track", options)
            paths = export_track(self.avatar, self.output)
        else:
            paths = export(self.avatar, self.output, self.format, options)
        for path in paths:
            print(path)
        return 0


@dataclass
class View:
    """Look at an avatar in the browser: sliders, playback, views; or at a fit while it runs."""

    avatar: Positional[Path]
    """The .avatar file, or the run folder of a fit."""
    play: Path | None = None
    """What it opens with: a sound file to say, or a motion track (CSV or JSON)."""
    port: int | None = None
    """Default: the first free one from 8080 on."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is reached from this machine only; 0.0.0.0 from everywhere."""

    def run(self) -> int:
        from avatar.viewing import view

        try:
            view(self.avatar, self.host, self.port, self.play, Reporter())
        except KeyboardInterrupt:
            return 0
        return 0


@dataclass
class Play:
    """Serve an exported player on localhost and print its address; Ctrl-C ends it."""

    folder: Positional[Path]
    """What `avatar export` wrote: the folder, or a page in it."""
    port: int = 8090
    """Port to serve on; 0 takes any free one."""

    def run(self) -> int:
        from avatar.export.serve import player_server

        with player_server(self.folder, self.port) as server:
            print(server.address, flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
        return 0


@dataclass
class Doctor:
    """Say what is installed, which backends work, what is missing and how to get it."""

    def run(self) -> int:
        from avatar.doctor import print_doctor

        print_doctor()
        return 0


@dataclass
class Bench:
    """Time the rasterizers that run here side by side: forward, backward, a whole training step, memory."""

    avatar: Positional[Path | None] = None
    """An avatar file whose drawing is timed too."""
    backends: tuple[str, ...] = ("cpu", "cuda", "twin", "gsplat")
    """Which ones."""
    only: tuple[str, ...] = ()
    """Names of scenes, for example 30k_512px_b1 (default: all twelve)."""
    scenes: Path | None = None
    """Folder to keep the scenes in, so that the very same ones can be measured elsewhere."""
    seconds: float = 1.0
    """Time spent on each figure."""
    json: Path | None = None
    """File for all figures."""

    def run(self) -> int:
        from avatar.bench import bench, print_bench

        print_bench(bench(self.avatar, self.backends, self.scenes, self.only, self.seconds, self.json, Reporter()))
        return 0


Verb = Union[  # noqa: UP007 - tyro reads the annotations at run time
    Annotated[Fit, tyro.conf.subcommand("fit")],
    Annotated[Track, tyro.conf.subcommand("track")],
    Annotated[Eval, tyro.conf.subcommand("eval")],
    Annotated[Drive, tyro.conf.subcommand("drive")],
    Annotated[Export, tyro.conf.subcommand("export")],
    Annotated[View, tyro.conf.subcommand("view")],
    Annotated[Play, tyro.conf.subcommand("play")],
    Annotated[Bench, tyro.conf.subcommand("bench")],
    Annotated[Doctor, tyro.conf.subcommand("doctor")],
]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `avatar` command; leaves through `sys.exit`."""
    verb = tyro.cli(Verb, prog="avatar", description=DESCRIPTION, args=arguments)
    try:
        sys.exit(verb.run())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
