"""A full report on drawn frames, and a parser that looks at pages."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_BLENDSHAPES
from avatar.evaluate.metrics import Scores, compare_coefficients, representative_frames
from avatar.evaluate.novel import NovelView
from avatar.evaluate.pictures import crop_square
from avatar.evaluate.report_data import HeldOutFrame, MouthCrop, Report, motion_plots, speech_plots
from avatar.evaluate.svg_plot import Plot, Series
from avatar.types import Camera, Finding, Provenance, Track


def drawn_face(opening: float, shift: float, size: int, blur: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A drawn head and shoulders and its region labels; `opening` 0..1, `shift` in px."""
    picture, labels = Image.new("RGB", (size, size), (126, 142, 150)), Image.new("L", (size, size), 0)
    draw, mark = ImageDraw.Draw(picture), ImageDraw.Draw(labels)

    def ellipse(x: float, y: float, w: float, h: float, colour: tuple[int, int, int], label: int) -> None:
        box = tuple(size * v for v in (x - w, y - h, x + w, y + h))
        box = (box[0] + shift, box[1], box[2] + shift, box[3])
        draw.ellipse(box, fill=colour)
        mark.ellipse(box, fill=label)

    ellipse(0.5, 1.05, 0.42, 0.32, (52, 62, 92), 1)
    ellipse(0.5, 0.42, 0.23, 0.30, (66, 44, 32), 2)
    ellipse(0.5, 0.47, 0.19, 0.26, (222, 178, 152), 2)
    for eye in (0.42, 0.58):
        ellipse(eye, 0.42, 0.035, 0.018, (245, 245, 245), 2)
        ellipse(eye, 0.42, 0.014, 0.016, (60, 80, 90), 2)
    ellipse(0.5, 0.60, 0.075, 0.02 + 0.04 * opening, (178, 86, 84), 2)
    ellipse(0.5, 0.60, 0.055, 0.004 + 0.035 * opening, (70, 22, 26), 3)
    stripes = np.random.default_rng(3).integers(-9, 9, (size, size, 1))
    image = np.clip(np.asarray(picture).astype(int) + stripes, 0, 255).astype(np.uint8)
    if blur:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(blur)))
    return image, np.asarray(labels)


def example_track(frames: int = 300) -> Track:
    times = np.arange(frames) / 25
    random = np.random.default_rng(5)
    coefficients = np.zeros((frames, 52), np.float32)
    coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.25 + 0.25 * np.sin(9 * times) * np.sin(1.3 * times)
    coefficients[:, BLENDSHAPE_INDEX["mouthSmileLeft"]] = 0.3 + 0.15 * np.sin(0.7 * times)
    coefficients[:, BLENDSHAPE_INDEX["mouthSmileRight"]] = 0.3 + 0.1 * np.sin(0.7 * times)
    coefficients[:, BLENDSHAPE_INDEX["mouthFunnel"]] = 0.15 + 0.12 * np.cos(7 * times)
    blink = (np.mod(times, 2.7) < 0.16) * 0.9
    coefficients[:, BLENDSHAPE_INDEX["eyeBlinkLeft"]] = blink
    coefficients[:, BLENDSHAPE_INDEX["browInnerUp"]] = 0.1 + 0.08 * np.sin(0.4 * times)
    coefficients += 0.01 * random.random((frames, 52)).astype(np.float32)
    pose = np.tile(np.diag([1.0, -1.0, -1.0, 1.0]), (frames, 1, 1))
    yaw = np.radians(9) * np.sin(0.8 * times)
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose[:, 0, 0], pose[:, 0, 2], pose[:, 2, 0], pose[:, 2, 2] = cos, sin, sin, -cos
    pose[:, :3, 3] = np.stack((0.8 * np.sin(0.5 * times), 0.3 * np.cos(times), 60 + 0.5 * np.sin(0.3 * times)), 1)
    return Track(
        camera=Camera(600.0, 128.0, 128.0, 256, 256),
        times=times,
        valid=np.ones(frames, bool),
        camera_from_head=pose,
        camera_from_torso=pose,
        coefficients=coefficients,
        landmarks=np.zeros((frames, 478, 2), np.float32),
        neutral=np.zeros((478, 3), np.float32),
        regions=_NoRegions(),
        backdrop=np.zeros((256, 256, 3), np.uint8),
        reference_frame=0,
    )


class _NoRegions:
    def __len__(self) -> int:
        return 0

    def labels(self, index: int) -> np.ndarray:
        raise IndexError(index)

    def matte(self, index: int) -> np.ndarray:
        raise IndexError(index)


def example_report(size: int = 64, frames: int = 12, name: str = "example") -> Report:
    """A full report on drawn frames; every number in it is measured on them."""
    rows, shown = {row: Scores() for row in ("tracked", "refined", "speech")}, []
    box = (int(0.4 * size), int(0.5 * size), int(0.2 * size))
    for k in range(frames):
        opening = 0.5 + 0.5 * np.sin(k)
        truth, labels = drawn_face(opening, 0, size)
        images = {
            "tracked": drawn_face(opening, 0.012 * size * np.sin(2 * k) ** 2, size, 0.9)[0],
            "refined": drawn_face(opening, 0, size, 0.8)[0],
            "speech": drawn_face(0.6 * opening, 0.012 * size * np.sin(2 * k) ** 2, size, 0.9)[0],
        }
        for row, image in images.items():
            rows[row].add(image, truth, labels, (box[0], box[1], box[0] + box[2], box[1] + box[2]))
        shown.append((truth, images))
    results = {row: scores.result() for row, scores in rows.items()}
    results["tracked"]["lmd"], results["speech"]["lmd"] = 0.71, 1.64
    results["speech"]["notes"] = ["lmd leaves out 1 of 12 frames in which no face was detected"]
    per_frame, number = results["tracked"]["per_frame"], 273
    pictures = tuple(
        HeldOutFrame(number + k, label, per_frame[k], shown[k][0], shown[k][1]["tracked"])
        for label, k in representative_frames(per_frame).items()
    )
    mouths = tuple(
        MouthCrop(number + k, *(crop_square(i, box) for i in (truth, images["tracked"], images["speech"])))
        for k, (truth, images) in enumerate(shown[:8])
    )
    track = example_track()
    held = track.times >= 10.92
    columns = [BLENDSHAPE_INDEX[n] for n in MOUTH_BLENDSHAPES]
    true = track.coefficients[held][:, columns]
    heard = np.clip(0.7 * true + 0.05 * np.sin(20 * track.times[held])[:, None], 0, 1)
    steps = np.arange(0, 1501, 10)
    curves = (
        Plot("Loss", "steps", "L1 + D-SSIM", (Series("loss", steps, 0.03 + 0.3 * np.exp(-steps / 200)),), log_y=True),
        Plot(
            "PSNR while training", "steps", "dB",
            (Series("training", steps, 32 - 14 * np.exp(-steps / 250)),
             Series("held out", steps, 30.4 - 13 * np.exp(-steps / 230))),
        ),
    )  # fmt: skip
    return Report(
        name=name,
        rows=results,
        size=size,
        frame_times=np.arange(frames) / 25 + 10.92,
        clip_name="interview take 3.mp4",
        provenance=Provenance(
            source_name="interview take 3.mp4", source_sha256="9f" * 32, tool_version="0.1.0",
            created="2025-03-09T14:22:05Z",
        ),
        device="CPU, 2 threads, AVX2",
        seconds={"capture": 6.1, "track": 21.4, "speech": 1.2, "train": 171.8, "speech model": 24.9, "evaluate": 9.3},
        seconds_fit=234.7,
        settings={"size": size, "train": {"steps": 1500, "losses": {"dssim": 0.2, "mouth_weight": 3.0}}},
        facts={"Gaussians": 14000, "avatar file": "7.9 MB"},
        findings=(
            Finding("note", "The head turns by at most 11 degrees; views beyond that are guessed."),
            Finding("warning", "No face was found from 3.2 s to 3.6 s; those frames were not trained on."),
        ),
        curves=curves,
        motion=motion_plots(track, held_out_from=10.92),
        speech=compare_coefficients(heard, true),
        speech_curves=speech_plots(track.times[held], heard, true, MOUTH_BLENDSHAPES),
        frames=pictures,
        mouths=mouths,
        novel=(NovelView("turned left 22°", "10° beyond the clip", shown[0][0]),),
    )  # fmt: skip


class Page(HTMLParser):
    """Collects addresses, and checks that elements close in order."""

    VOID = ("meta", "img", "i-none")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
