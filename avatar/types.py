"""The typed results that stages hand to each other. Frozen, shape-checked in tests, no behaviour beyond access.

Arrays are NumPy: a stage's result lives on disk and is read back by the next one; tensors appear in `dataset`.
``N`` is the number of frames of the clip, ``H`` and ``W`` the height and width of the avatar's frame in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from avatar.conventions import HELD_OUT_FRACTION


@dataclass(frozen=True)
class Crop:
    """Square cut from the upright (rotation applied) clip, in its pixels; it is then scaled to ``size`` px.

    May reach beyond the picture (the outside repeats the edge pixels)."""

    left: int
    top: int
    side: int
    size: int


@dataclass(frozen=True)
class Finding:
    """Something the user should know about the clip. ``severity`` is 'note' or 'warning'."""

    severity: str
    message: str


@runtime_checkable
class FrameReader(Protocol):
    """Random access to uint8 RGB frames without holding the clip in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]: ...


@dataclass(frozen=True)
class Capture:
    """A decoded clip on disk: frames as the avatar sees them (cropped, scaled), their times, the sound."""

    folder: Path
    frames: FrameReader
    times: Float[np.ndarray, " N"]
    """Seconds from the first frame, strictly increasing, true (not index/fps)."""
    fps: float
    """Mean frame rate, frames per second."""
    audio: Float32[np.ndarray, " S"] | None
    """Mono speech at SAMPLE_RATE, sample 0 at the time of the first frame; None without a sound track."""
    crop: Crop
    source_name: str
    source_sha256: str
    source_size: tuple[int, int]
    """Width and height of the upright clip in pixels."""
    findings: tuple[Finding, ...] = ()

    @property
    def size(self) -> int:
        """Width and height of a frame in pixels."""
        return self.crop.size

    @property
    def held_out_start(self) -> int:
        """Number of the first held-out frame: the last HELD_OUT_FRACTION of the clip, at least one frame."""
        return len(self.frames) - max(1, round(len(self.frames) * HELD_OUT_FRACTION))


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of the avatar's frame: focal length and principal point in pixels of a width x height image."""

    focal_px: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, width: int, height: int) -> Camera:
        """The same view on an image of another size (same aspect)."""
        s = width / self.width
        return Camera(self.focal_px * s, self.cx * s, self.cy * height / self.height, width, height)


@dataclass(frozen=True)
class Track:
    """What the tracking stage knows of every frame, before any avatar exists."""

    camera: Camera
    times: Float[np.ndarray, " N"]
    valid: Bool[np.ndarray, " N"]
    """False where no face was found or something covers it; the motion there is bridged from the neighbours."""
    camera_from_head: Float[np.ndarray, "N 4 4"]
    camera_from_torso: Float[np.ndarray, "N 4 4"]
    """Equals camera_from_head in the reference frame; elsewhere moved by the image motion of the shoulders."""
    coefficients: Float32[np.ndarray, "N 52"]
    """ARKit coefficients in the order of conventions.BLENDSHAPES, 0..1."""
    landmarks: Float32[np.ndarray, "N 478 2"]
    """Face mesh in pixels of the frame."""
    neutral: Float32[np.ndarray, "478 3"]
    """The person's neutral head in head space, cm."""
    regions: RegionReader
    backdrop: UInt8[np.ndarray, "H W 3"]
    """What is behind the person: robust mean of the uncovered pixels, filled where never seen."""
    reference_frame: int
    findings: tuple[Finding, ...] = ()
    codes: Float32[np.ndarray, "N C"] | None = None
    """Appearance codes (conventions.CODES): how each picture differs from the clip's mean, in numbers; None in files of
    early versions and where the clip is too short to learn them."""


@runtime_checkable
class RegionReader(Protocol):
    """Per-frame region labels and person matte, stored compressed."""

    def __len__(self) -> int: ...

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """REGION_* label of each pixel."""
        ...

    def matte(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Soft person mask, 0 = backdrop, 255 = person."""
        ...


@dataclass(frozen=True)
class SpeechFeatures:
    """Log-mel spectrogram of the clip's sound."""

    log_mel: Float32[np.ndarray, "T M"]
    times: Float[np.ndarray, " T"]
    """Time of each column's window centre, seconds from the first video frame."""
    offset_seconds: float = 0.0
    """How much later the sound is than the picture; already removed from `times`."""
    encoded: Float32[np.ndarray, "n W"] | None = None
    """What a speech encoder says of each token of two columns, where there is one (speech.encoder)."""


@dataclass(frozen=True)
class Motion:
    """A motion track that drives an avatar: what every source (speech, video, CSV, sliders) is turned into."""

    times: Float[np.ndarray, " N"]
    coefficients: Float32[np.ndarray, "N 52"]
    camera_from_head: Float[np.ndarray, "N 4 4"]
    camera_from_torso: Float[np.ndarray, "N 4 4"]
    codes: Float32[np.ndarray, "N C"] | None = None
    """Appearance codes (conventions.CODES) that a picture of this frame gave; None where no picture was seen, and the
    avatar then expects the likeliest."""

    def at(self, frames: np.ndarray | slice) -> Motion:
        """Some of the frames."""
        return Motion(
            self.times[frames],
            self.coefficients[frames],
            self.camera_from_head[frames],
            self.camera_from_torso[frames],
            None if self.codes is None else self.codes[frames],
        )


@dataclass(frozen=True)
class Provenance:
    """Where an avatar comes from."""

    source_name: str
    source_sha256: str
    tool_version: str
    created: str
    """ISO 8601, UTC."""
    consent: str = "The person shown must have agreed to this avatar being made and used."
    extra: dict[str, str] = field(default_factory=dict)
