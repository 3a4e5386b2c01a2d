"""MediaPipe on every frame: face mesh, optionally Google's Face Landmarker, and the raw person mask.

The mesh runs in tracking mode: measured on real clips it has no lag against per-frame detection (unlike the video
mode of the Face Landmarker, 0.3-0.6 frames late) and about 10 % less jitter, because the region of interest comes
from the previous mesh. Models are inside the `mediapipe` wheel.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avatar.conventions import BLENDSHAPES, LANDMARKS
from avatar.errors import UserError, one_line
from avatar.quiet import quiet_native_stderr
from avatar.track.mesh import mirror_points

MASK_SIDE = 256
"""The segmentation model's own resolution, px; finer edges come from `matte`."""
SAME_FACE = 0.08
"""Mean distance, over the face's size, up to which two meshes are of one face and equally credible."""
LOOK_ROUND = 15
"""Frames between looks for a second face."""
SIMILAR_SIZE = 0.6
"""A second face at least this large against the first counts as a second person."""


@dataclass(frozen=True)
class Detection:
    """What the networks say of one frame."""

    landmarks: Float32[np.ndarray, "478 3"] | None
    """px (x right, y down) and relative depth in px; None without a face."""
    faces: int
    """Faces of a size similar to the largest."""


class MaskStore:
    """Raw person masks of the clip, compressed in memory (a few kilobytes each), one for every `step`-th frame."""

    def __init__(self, step: int = 1) -> None:
        self._step = step
        self._blobs: list[bytes] = []
        self._mask = lru_cache(8)(self._unpacked)

    def append(self, mask: UInt8[np.ndarray, "S S"]) -> None:
        """Adds the next mask."""
        self._blobs.append(zlib.compress(mask.tobytes(), 1))

    def __getitem__(self, frame: int) -> UInt8[np.ndarray, "S S"]:
        """The mask of a frame; between two masks their mean by distance, beyond the last the last."""
        first, part = divmod(frame, self._step)
        first, second = (min(k, len(self._blobs) - 1) for k in (first, first + 1))
        if part == 0 or first == second:
            return self._mask(first)
        import cv2

        share = part / self._step
        return cv2.addWeighted(self._mask(first), 1 - share, self._mask(second), share, 0)

    def _unpacked(self, number: int) -> UInt8[np.ndarray, "S S"]:
        return np.frombuffer(zlib.decompress(self._blobs[number]), dtype=np.uint8).reshape(MASK_SIDE, MASK_SIDE)


class FaceMesh:
    """Face mesh of consecutive frames: the mean of what the network sees in the frame and in its mirror image.

    The two have nearly independent errors: against the coefficients of the Face Landmarker on unseen people the mean
    correlates 0.02-0.05 better than either. Each must see the frames in order; `seen` and `seen_mirrored` may run on
    threads of their own, and `joined` in a third.
    """

    def __init__(self) -> None:
        solutions = _solutions()
        with quiet_native_stderr():
            self._mesh, self._pair, self._mirror = (
                solutions.face_mesh.FaceMesh(static_image_mode=False, refine_landmarks=True, max_num_faces=faces)
                for faces in (1, 2, 1)
            )
        self._begun: set[Any] = set()
        self._until_look = 0
        self._last: np.ndarray | None = None

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Detection:
        """Mesh of the face that continues the previous frame's (the largest in the first)."""
        return self.joined(self.seen(frame), self.seen_mirrored(frame))

    def seen(self, frame: UInt8[np.ndarray, "H W 3"]) -> list[Float32[np.ndarray, "478 3"]]:
        """Up to two faces of the next frame.

        A second one costs half as much again: it is looked for now and then, and as long as there is not just one.
        """
        faces = self._find(self._mesh, frame)
        self._until_look -= 1
        if self._until_look < 0 or len(faces) != 1:
            both = self._find(self._pair, frame)
            self._until_look = LOOK_ROUND if len(both) == 1 else 0
            faces = both if len(both) > 1 else faces or both
        return faces

    def seen_mirrored(self, frame: UInt8[np.ndarray, "H W 3"]) -> list[Float32[np.ndarray, "478 3"]]:
        """The face of the next frame as the mirror image shows it, mirrored back."""
        import cv2

        faces = [face[mirror_points()] for face in self._find(self._mirror, cv2.flip(frame, 1))]
        for face in faces:
            face[:, 0] = frame.shape[1] - face[:, 0]
        return faces

    def joined(
        self, faces: list[Float32[np.ndarray, "478 3"]], mirrored: list[Float32[np.ndarray, "478 3"]]
    ) -> Detection:
        """What the two say together of the next frame: of `seen` the face that continues the previous frame's."""
        if not faces:
            self._last = None
            return Detection(None, 0)
        sizes = [_face_size(f) for f in faces]
        chosen = faces[int(np.argmax(sizes))]
        if self._last is not None:
            previous = self._last[:, :2].mean(0)
            chosen = min(faces, key=lambda f: float(np.linalg.norm(f[:, :2].mean(0) - previous)))
        self._last = chosen
        for other in mirrored:
            if float(np.abs(other - chosen)[:, :2].mean()) < SAME_FACE * _face_size(chosen):
                chosen = (chosen + other) / 2
        return Detection(chosen, _distinct(faces, max(sizes)))

    def _find(self, mesh, frame) -> list[np.ndarray]:
        height, width = frame.shape[:2]
        with quiet_native_stderr(mesh not in self._begun):
            found = mesh.process(frame).multi_face_landmarks or []
        self._begun.add(mesh)
        scale = np.array([width, height, width], dtype=np.float32)
        faces = [np.array([(p.x, p.y, p.z) for p in face.landmark], dtype=np.float32) * scale for face in found]
        return [f for f in faces if len(f) == LANDMARKS and _plausible(f, width)]

    def close(self) -> None:
        """Releases the networks."""
        with quiet_native_stderr():
            for network in (self._mesh, self._pair, self._mirror):
                network.close()


class PersonMask:
    """Raw person mask of each frame, at the network's resolution."""

    def __init__(self) -> None:
        solutions = _solutions()
        with quiet_native_stderr():
            self._model = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
        self._first = True

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "256 256"]:
        """Probability of person, 0..255."""
        import cv2

        small = cv2.resize(frame, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
        with quiet_native_stderr(self._first):
            mask = self._model.process(small).segmentation_mask
        self._first = False
        return np.clip(mask * 255 + 0.5, 0, 255).astype(np.uint8)

    def close(self) -> None:
        """Releases the network."""
        with quiet_native_stderr():
            self._model.close()


class Landmarker:
    """Google's Face Landmarker from a file of the user's: the 52 coefficients of each frame on its own."""

    def __init__(self, model: Path) -> None:
        check_landmarker(model)
        _solutions()
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=model.read_bytes()),
            output_face_blendshapes=True,
            running_mode=vision.RunningMode.IMAGE,
        )
        try:
            with quiet_native_stderr():
                self._model = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{model.name} is not a Face Landmarker model that works here: {one_line(error)}"
            ) from error
        self._first = True

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, " 52"] | None:
        """Coefficients in the order of conventions.BLENDSHAPES (tongueOut 0); None without a face."""
        import mediapipe

        with quiet_native_stderr(self._first):
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            result = self._model.detect(image)
        self._first = False
        if not result.face_blendshapes:
            return None
        scores = {c.category_name: c.score for c in result.face_blendshapes[0]}
        return np.array([scores.get(name, 0.0) for name in BLENDSHAPES], dtype=np.float32)

    def close(self) -> None:
        """Releases the networks."""
        with quiet_native_stderr():
            self._model.close()


def check_landmarker(model: Path) -> None:
    """Raises UserError unless `model` looks like a Face Landmarker bundle with blendshapes."""
    if not model.is_file():
        raise UserError(f"There is no Face Landmarker model at {model}: give the path of a face_landmarker.task file.")
    try:
        with zipfile.ZipFile(model) as bundle:
            names = set(bundle.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{model} is not a Face Landmarker model (.task): download it again.") from error
    if "face_blendshapes.tflite" not in names or "face_landmarks_detector.tflite" not in names:
        raise UserError(f"{model} is a MediaPipe model, but not a Face Landmarker with blendshapes.")


def second_person(crowded: Bool[np.ndarray, " N"], valid: Bool[np.ndarray, " N"]) -> bool:
    """True where a second face of similar size is there in a good part of the frames with a face."""
    return int(crowded.sum()) > max(3, 0.15 * int(valid.sum()))


def _plausible(face: np.ndarray, width: int) -> bool:
    """Rejects collapsed meshes and ones that lie mostly outside the picture."""
    centre = face[:, :2].mean(axis=0)
    return _face_size(face) > 0.04 * width and bool(np.all(centre > 0) and np.all(centre < width))


def _face_size(face: np.ndarray) -> float:
    return float(np.sqrt(np.prod(np.ptp(face[:, :2], axis=0))))


def _distinct(faces: list[np.ndarray], largest: float) -> int:
    """Number of faces of similar size that do not lie on one another (one face is sometimes found twice)."""
    kept: list[np.ndarray] = []
    for face in faces:
        centre = face[:, :2].mean(axis=0)
        apart = all(np.linalg.norm(centre - other) > 0.5 * largest for other in kept)
        if _face_size(face) >= SIMILAR_SIZE * largest and apart:
            kept.append(centre)
    return len(kept)


def _solutions():
    """`mediapipe.solutions`, imported quietly; one clear error where that cannot work."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_native_stderr():
            import mediapipe

            return mediapipe.solutions
    except (ImportError, AttributeError, OSError) as error:
        raise UserError(
            "Tracking needs mediapipe 0.10.x up to 0.10.21 (later versions lack the face mesh): "
            f"pip install 'mediapipe<0.10.22'. ({one_line(error)})"
        ) from error
