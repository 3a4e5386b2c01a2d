"""Measures what the tracking is worth: the same fit with this project's tracking and with raw MediaPipe output.

    python scripts/compare_tracking.py CLIP [CLIP ...] --teacher face_landmarker.task --out DIR [--size PX] [--steps N]

*Raw* takes head pose (facial transformation matrix) and the 52 coefficients of every frame from Google's Face
Landmarker as they come, with the camera it assumes; regions, backdrop and the torso's motion in the picture are the
same in both. Prints the held-out PSNR of the tracked row for both. Run it from the project's root.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import tyro

from avatar.config import FitConfig, load_preset
from avatar.conventions import BLENDSHAPES
from avatar.pipeline import capture_stage, fit, limit_threads, track_stage
from avatar.progress import Reporter
from avatar.run_folder import open_run
from avatar.track import save_track
from avatar.track.exchange import FACING
from avatar.track.mesh import HEAD_CENTRE
from avatar.types import Camera, Capture, Track

LANDMARKER_FIELD_DEGREES = 63.0
"""Vertical field of view of the camera the Face Landmarker assumes (MediaPipe's face geometry environment)."""


@dataclass
class Options:
    """What to compare on."""

    clips: tyro.conf.Positional[list[Path]]
    """Clips of one person each."""
    teacher: Path
    """Google's face_landmarker.task."""
    out: Path
    """Folder for the runs (kept)."""
    preset: str = "quick"
    """Preset of the fits."""
    steps: int | None = None
    """Training steps (default: the preset's)."""
    size: int | None = None
    """Side of the frames in pixels (default: the preset's)."""


def raw_track(capture: Capture, track: Track, teacher: Path) -> Track:
    """The track with camera, head pose and coefficients straight from the Face Landmarker, frame by frame."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    poses, coefficients = track.camera_from_head.copy(), track.coefficients.copy()
    found = np.zeros(len(poses), bool)
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(teacher)), output_face_blendshapes=True,
        output_facial_transformation_matrixes=True, running_mode=vision.RunningMode.IMAGE,
    )  # fmt: skip
    centre = np.eye(4)
    centre[:3, 3] = HEAD_CENTRE
    to_camera = np.eye(4)
    to_camera[:3, :3] = FACING
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for i in range(len(poses)):
            frame = np.ascontiguousarray(capture.frames[i])
            result = landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=frame))
            if not result.face_blendshapes:
                continue
            found[i] = True
            poses[i] = to_camera @ result.facial_transformation_matrixes[0] @ centre
            scores = {c.category_name: c.score for c in result.face_blendshapes[0]}
            coefficients[i] = [scores.get(name, 0.0) for name in BLENDSHAPES]
    size = capture.size
    focal = size / 2 / np.tan(np.radians(LANDMARKER_FIELD_DEGREES) / 2)
    camera = Camera(float(focal), size / 2, size / 2, size, size)
    return dataclasses.replace(
        track, camera=camera, camera_from_head=poses, coefficients=coefficients, valid=track.valid & found,
        camera_from_torso=_torso_in(track, camera, poses[track.reference_frame]), codes=None,
    )  # fmt: skip


def _torso_in(track: Track, camera: Camera, reference: np.ndarray) -> np.ndarray:
    """The torso's motion in the picture, lifted with another camera and another reference pose. [N, 4, 4]"""
    own = track.camera_from_head[track.reference_frame]
    motion = track.camera_from_torso @ np.linalg.inv(own)
    nearer = reference[2, 3] / own[2, 3]
    motion[:, :2, 3] *= nearer * track.camera.focal_px / camera.focal_px
    motion[:, 2, 3] *= nearer
    return motion @ reference


def fitted(clip: Path, folder: Path, config: FitConfig, teacher: Path | None, reporter: Reporter) -> float:
    """Held-out PSNR of the tracked row; with `teacher` from the raw track."""
    from avatar.capture import clip_sha256

    run = open_run(folder, clip, clip_sha256(clip), config, False, False)
    capture = capture_stage(clip, run, reporter)
    track = track_stage(capture, run, None, reporter)
    if teacher is not None:
        save_track(raw_track(capture, track, teacher), run.track)
    run.save()
    result = fit(clip, folder, config, reporter=reporter)
    assert result.psnr is not None
    return result.psnr


def main(options: Options) -> None:
    """Fits every clip twice."""
    limit_threads()
    config = load_preset(options.preset)
    config = dataclasses.replace(config, speech=dataclasses.replace(config.speech, enabled=False))
    if options.steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=options.steps))
    if options.size is not None:
        config = dataclasses.replace(config, size=options.size)
    reporter = Reporter()
    for clip in options.clips:
        ours = fitted(clip, options.out / f"{clip.stem}.ours", config, None, reporter)
        raw = fitted(clip, options.out / f"{clip.stem}.raw", config, options.teacher, reporter)
        print(f"{clip.name}: ours {ours:.2f} dB, raw {raw:.2f} dB, difference {ours - raw:+.2f} dB", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
