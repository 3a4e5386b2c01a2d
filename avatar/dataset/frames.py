"""The frames of a fit as tensors, read from disk when asked for; nothing of the clip stays in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from avatar.conventions import REGION_BACKGROUND
from avatar.dataset.exposure import Exposure
from avatar.types import Camera, Capture, Motion, SpeechFeatures, Track


@dataclass(frozen=True)
class MotionBatch:
    """The motion of a batch of frames, what a model is driven by."""

    coefficients: Float[Tensor, "B 52"]
    camera_from_head: Float[Tensor, "B 3 4"]
    camera_from_torso: Float[Tensor, "B 3 4"]
    codes: Float[Tensor, "B C"] | None = None
    """Appearance codes, see types.Motion."""

    def __len__(self) -> int:
        return self.coefficients.shape[0]

    def at(self, frames: Int[Tensor, " n"] | slice) -> MotionBatch:
        """Some of the frames."""
        return MotionBatch(
            self.coefficients[frames],
            self.camera_from_head[frames],
            self.camera_from_torso[frames],
            None if self.codes is None else self.codes[frames],
        )

    def to(self, device: torch.device | str) -> MotionBatch:
        """The same on another device."""
        return MotionBatch(
            self.coefficients.to(device),
            self.camera_from_head.to(device),
            self.camera_from_torso.to(device),
            None if self.codes is None else self.codes.to(device),
        )


@dataclass(frozen=True)
class FrameBatch:
    """Pictures with what is known of them."""

    indices: Int[Tensor, " B"]
    images: Float[Tensor, "B H W 3"]
    """0..1, the video's own colours, drifting exposure taken out."""
    labels: Int[Tensor, "B H W"]
    """REGION_* per pixel."""
    matte: Float[Tensor, "B H W"]
    """Person mask, 0..1."""
    mouth_boxes: Int[Tensor, "B 4"]
    """Pixels left, top, right, bottom (right and bottom exclusive) around the lips."""
    motion: MotionBatch

    def downscaled(self, factor: int) -> FrameBatch:
        """The batch at 1/factor of its size (area average)."""
        if factor == 1:
            return self
        images = functional.avg_pool2d(self.images.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
        matte = functional.avg_pool2d(self.matte.unsqueeze(1), factor).squeeze(1)
        height, width = matte.shape[1:]
        # The label of the block's middle pixel; odd rests at the far edges fall away as in avg_pool2d.
        middle = factor // 2
        labels = self.labels[:, middle::factor, middle::factor][:, :height, :width]
        boxes = torch.stack(
            [*(self.mouth_boxes[:, :2] // factor).unbind(1), *(-(-self.mouth_boxes[:, 2:] // factor)).unbind(1)], dim=1
        )
        return FrameBatch(self.indices, images.contiguous(), labels, matte, boxes, self.motion)


def motion_tensors(motion: Motion | Track, device: torch.device) -> MotionBatch:
    """All frames' motion as float32 tensors."""

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array, np.float32), device=device)

    return MotionBatch(
        coefficients=tensor(motion.coefficients),
        camera_from_head=tensor(motion.camera_from_head[:, :3]),
        camera_from_torso=tensor(motion.camera_from_torso[:, :3]),
        codes=None if motion.codes is None else tensor(motion.codes),
    )


LIP_LANDMARKS = (61, 291, 0, 17, 37, 267, 84, 314)
"""Corners and the middle of the outer lips in the face mesh."""
MOUTH_MARGIN = 0.35
"""The box around the lips is widened by this share of its width on each side: chin and moustache move too."""


def mouth_box(landmarks: Float[np.ndarray, "478 2"], size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels (right and bottom exclusive) of the square around the lips."""
    lips = landmarks[list(LIP_LANDMARKS)]
    low, high = lips.min(0), lips.max(0)
    centre, half = (low + high) / 2, (0.5 + MOUTH_MARGIN) * max(float((high - low).max()), 2.0)
    left, top = (int(v) for v in np.clip(np.floor(centre - half), 0, size - 2))
    right, bottom = (int(v) for v in np.clip(np.ceil(centre + half), 2, size))
    return left, top, max(right, left + 1), max(bottom, top + 1)


UNCOVERED_FRAMES = 120
"""Frames whose mattes say where the backdrop is ever seen."""
UNCOVERED_MATTE = 16
"""Matte (of 255) below which a pixel shows the backdrop alone."""


class FrameSet:
    """Capture and Track together, frame by frame; speech comes along where the clip has it.

    Frames where the tracker found no face are never used for training or scores: their motion is a guess.
    """

    def __init__(
        self, capture: Capture, track: Track, device: torch.device, speech: SpeechFeatures | None = None
    ) -> None:
        if len(capture.frames) != len(track.times):
            raise ValueError(f"capture has {len(capture.frames)} frames, track has {len(track.times)}")
        self.capture, self.track, self.device, self.speech = capture, track, device, speech
        self.motion = motion_tensors(track, device)
        self.exposure = Exposure(capture, track)
        split = capture.held_out_start
        index = np.arange(len(track.times))
        self.train_indices: np.ndarray = index[:split][track.valid[:split]]
        self.held_out_indices: np.ndarray = index[split:][track.valid[split:]]
        self.held_out_seconds = float(track.times[split])

    @property
    def camera(self) -> Camera:
        return self.track.camera

    def __len__(self) -> int:
        return len(self.track.times)

    def motion_of(self, indices: Int[Tensor, " B"]) -> MotionBatch:
        """The tracked motion of some frames."""
        return self.motion.at(indices)

    def training_motion(self) -> MotionBatch:
        """The tracked motion of all training frames."""
        return self.motion.at(torch.as_tensor(self.train_indices, device=self.device))

    def batch(self, indices: np.ndarray) -> FrameBatch:
        """Reads frames from disk; `indices` (B,) frame numbers of the clip."""
        images = np.stack([self.picture(int(i)) for i in indices])
        labels = np.stack([self.track.regions.labels(int(i)) for i in indices])
        matte = np.stack([self.track.regions.matte(int(i)) for i in indices])
        # The matte decides what is person; labels only say which part.
        labels = np.where(matte < 8, REGION_BACKGROUND, labels)
        index = torch.as_tensor(np.asarray(indices, np.int64), device=self.device)
        return FrameBatch(
            indices=index,
            images=torch.from_numpy(images).to(self.device).float().div_(255.0),
            labels=torch.from_numpy(labels.astype(np.int64)).to(self.device),
            matte=torch.from_numpy(matte).to(self.device).float().div_(255.0),
            mouth_boxes=torch.tensor([self.mouth_box(int(i)) for i in indices], device=self.device),
            motion=self.motion_of(index),
        )

    def picture(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """A frame of the clip, drifting exposure taken out."""
        return self.exposure.removed(self.capture.frames[index], index)

    def uncovered(self) -> Bool[Tensor, "H W"]:
        """Pixels at which some frame of the clip (of an even choice) shows what is behind the person."""
        chosen = np.linspace(0, len(self) - 1, min(len(self), UNCOVERED_FRAMES)).round().astype(int)
        least = np.minimum.reduce([self.track.regions.matte(int(i)) for i in np.unique(chosen)])
        return torch.from_numpy(least < UNCOVERED_MATTE).to(self.device)

    def mouth_box(self, index: int) -> tuple[int, int, int, int]:
        """The square around the lips of a frame."""
        return mouth_box(self.track.landmarks[index], self.capture.size)
