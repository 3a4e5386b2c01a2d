"""Writes what a demo run yields: the clip (H.264 and AAC), its exact motion, its masks; beside, then renamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from avatar.conventions import BLENDSHAPES, REGIONS

AUDIO_RATE = 48_000


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.part{path.suffix}")


def write_clip(
    path: Path, frames: Iterable[np.ndarray], fps: int, size: int, sound: np.ndarray, sound_rate: int
) -> None:
    """Encodes sRGB frames (size, size, 3) uint8 and mono speech (S,) -1..1 into an mp4."""
    import av
    import soxr

    part = _beside(path)
    with av.open(str(part), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=fps, options={
            "crf": "17", "preset": "slow", "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709:keyint=50",
        })  # fmt: skip
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, fps)
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="mono")
        audio.bit_rate = 96_000
        count = 0
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            container.mux(video.encode(frame))
            count += 1
        container.mux(video.encode(None))
        wave = soxr.resample(sound, sound_rate, AUDIO_RATE)[: round(count / fps * AUDIO_RATE)]
        wave = np.pad(wave, (0, max(0, round(count / fps * AUDIO_RATE) - len(wave)))).astype(np.float32)
        for start in range(0, len(wave), 1024):
            block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = AUDIO_RATE, start, Fraction(1, AUDIO_RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    part.chmod(0o644)  # safetensors makes it private
    part.replace(path)


def write_truth(path: Path, tensors: dict[str, np.ndarray], header: dict[str, object]) -> None:
    """Exact motion as safetensors; every header value is JSON."""
    common = {
        "axes": "camera: OpenCV, x right, y down, z forward; head and torso: x to image right, y up, z out of the face",
        "units": "cm, px, s",
        "coefficients": list(BLENDSHAPES),
    }
    part = _beside(path)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, part,
              metadata={k: json.dumps(v) for k, v in {**common, **header}.items()})  # fmt: skip
    part.chmod(0o644)  # safetensors makes it private
    part.replace(path)


def write_masks(path: Path, blobs: list[bytes], size: int) -> None:
    """Region label pictures (size, size) uint8: one zlib stream per frame in `data`, cut by `offsets` (N + 1)."""
    offsets = np.cumsum([0] + [len(b) for b in blobs]).astype(np.int64)
    part = _beside(path)
    header = {"encoding": "zlib of H*W uint8, row by row from the top left", "labels": json.dumps(list(REGIONS)),
              "height": str(size), "width": str(size)}  # fmt: skip
    save_file({"data": np.frombuffer(b"".join(blobs), np.uint8), "offsets": offsets}, part, metadata=header)
    part.chmod(0o644)  # safetensors makes it private
    part.replace(path)
