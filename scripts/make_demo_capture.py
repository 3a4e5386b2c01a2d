"""Makes the project's demo capture: a wholly computer-generated person talking, with exact ground truth beside it.

    python scripts/make_demo_capture.py [-o DIR] [--seconds S] [--size PX] [--seed N] [--frames A:B]

Writes ``demo.mp4``, ``demo_truth.safetensors`` and ``demo_masks.safetensors`` (captures/README.md describes them). With
``--frames`` it writes only stills of those frames as PNG. Needs the extra `scripts` (moderngl), OpenGL through EGL
(Mesa's software renderer is enough) and espeak-ng.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from demo_capture import motion, speech, write  # noqa: E402
from demo_capture.person import Person, Pose  # noqa: E402

from avatar.errors import UserError  # noqa: E402
from avatar.progress import Reporter  # noqa: E402

FOCAL_PER_SIZE = 1250 / 512
"""Focal length over picture size: a portrait lens one metre away."""
REFERENCE_FRAME = 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes the synthetic demo capture.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "captures", help="folder to write into")
    parser.add_argument("--seconds", type=float, default=None, help="cut the clip (default: the whole text)")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels, a multiple of 16")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another performance and haircut")
    parser.add_argument("--frames", default=None, metavar="A:B[:STEP]", help="only stills of these frames, as PNG")
    return parser.parse_args()


def stills(text: str, count: int) -> range:
    """Frame numbers of ``A:B[:STEP]``."""
    try:
        parts = [int(p) for p in text.split(":")]
        if not 1 <= len(parts) <= 3:
            raise ValueError
    except ValueError:
        raise UserError(f"--frames wants A:B or A:B:STEP, not {text!r}") from None
    if len(parts) == 1:
        parts.append(parts[0] + 1)
    chosen = range(count)[slice(*parts)]
    if not chosen:
        raise UserError(f"--frames {text} names no frame; the clip has {count}")
    return chosen


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    from demo_capture.render import Renderer

    if args.size < 64 or args.size % 16:
        raise UserError(f"--size must be a multiple of 16 of at least 64, not {args.size}")
    spoken = speech.speak()
    seconds = len(spoken.samples) / spoken.rate
    if args.seconds is not None:
        if args.seconds < 0.1:
            raise UserError("--seconds must be at least 0.1")
        seconds = min(seconds, args.seconds)
    count = int(seconds * motion.FPS)
    # The performance of the whole text, cut afterwards, so that a short clip is the beginning of the long one.
    whole = motion.perform(spoken, args.seed, int(len(spoken.samples) / spoken.rate * motion.FPS))
    reporter.say("building the person")
    person = Person(args.seed)
    focal_px = FOCAL_PER_SIZE * args.size
    renderer = Renderer(person, args.size, focal_px)
    reporter.say("measuring ambient light")
    rest = Pose(np.zeros(52, np.float32), motion.CAMERA_FROM_REST, motion.CAMERA_FROM_REST)
    renderer.bake_ambient(person.posed(rest))

    def pose(k: int) -> Pose:
        return Pose(whole.coefficients[k], whole.camera_from_head[k], whole.camera_from_torso[k])

    args.output.mkdir(parents=True, exist_ok=True)
    if args.frames is not None:
        from PIL import Image

        for k in stills(args.frames, count):
            picture, _ = renderer.draw(person.posed(pose(k)))
            Image.fromarray(picture).save(args.output / f"still_{k:04d}.png")
        return
    masks: list[bytes] = []
    points: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        with reporter.bar("rendering", count) as bar:
            for k in range(count):
                posed = person.posed(pose(k))
                picture, labels = renderer.draw(posed)
                masks.append(zlib.compress(labels.tobytes(), 9))
                points.append(person.landmarks(posed))
                bar.advance()
                yield picture

    write.write_clip(args.output / "demo.mp4", frames(), motion.FPS, args.size, spoken.samples, spoken.rate)
    write.write_masks(args.output / "demo_masks.safetensors", masks, args.size)
    tensors = {
        "times": whole.times[:count], "focal_px": np.array([focal_px]),
        "coefficients": whole.coefficients[:count], "camera_from_head": whole.camera_from_head[:count],
        "camera_from_torso": whole.camera_from_torso[:count], "landmarks": np.stack(points).astype(np.float32),
        "neutral_landmarks": person.neutral_landmarks().astype(np.float32),
    }  # fmt: skip
    header = {
        "width": args.size, "height": args.size, "fps": motion.FPS, "reference_frame": REFERENCE_FRAME,
        "seed": args.seed, "landmarks": list(person.landmark_names), "text": speech.TEXT,
        "phonemes": [[p.name, round(p.start, 4), round(p.end, 4)]
                     for p in spoken.phonemes if p.start < count / motion.FPS],
    }  # fmt: skip
    write.write_truth(args.output / "demo_truth.safetensors", tensors, header)
    reporter.say(f"{args.output / 'demo.mp4'}: {count} frames, {count / motion.FPS:.1f} s")


def main() -> int:
    reporter = Reporter()
    try:
        run(parse(), reporter)
    except UserError as e:
        print(f"make_demo_capture: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
