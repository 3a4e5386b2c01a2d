"""Landmark distance (LMD): how far the rendered lips and jaw are from the filmed ones, in pixels.

Both pictures go through the same face detector, frame by frame and without memory of earlier frames, so that the
detector's habits cancel and a rendering cannot borrow the position of the frame before (Chen et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from avatar.errors import one_line
from avatar.quiet import quiet_native_stderr
from avatar.track.mesh import INNER_LIPS, OUTER_LIPS

JAW: Final = (172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397)
"""Lower half of the face oval from ear to ear, face mesh numbers."""
MOUTH_AND_JAW: Final = OUTER_LIPS + INNER_LIPS + JAW

LandmarkDetector = Callable[[np.ndarray], "np.ndarray | None"]
"""uint8 RGB frame (H W 3) -> face mesh points in pixels (478 2), or None where no face is found."""


class LandmarkDistance:
    """Accumulates the distance of mouth and jaw landmarks between renderings and true frames."""

    def __init__(self, detect: LandmarkDetector | None = None) -> None:
        """`detect` finds the landmarks; by default MediaPipe's face mesh, loaded at the first frame."""
        self._detect = detect
        self._distances: list[float] = []
        self._missed = 0
        self._unavailable = ""

    def add(self, frame: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> None:
        """Detects both faces and keeps their distance; a frame in which either has none is left out and counted."""
        if self._detect is None and not self._unavailable:
            try:
                self._detect = mediapipe_detector()
            except Exception as error:  # a broken native library fails in many ways; scoring goes on without it
                self._unavailable = f"lmd was not measured: mediapipe cannot be loaded ({one_line(error)})"
        if self._detect is None:
            return
        true = self._detect(truth)
        ours = self._detect(frame) if true is not None else None
        if true is None or ours is None:
            self._missed += 1
            return
        index = list(MOUTH_AND_JAW)
        self._distances.append(float(np.linalg.norm(ours[index] - true[index], axis=1).mean()))

    def result(self) -> tuple[float | None, list[str]]:
        """Mean distance in px of the avatar's frame (None when it could not be measured), and notes on what was left
        out."""
        if self._unavailable:
            return None, [self._unavailable]
        total = len(self._distances) + self._missed
        notes = []
        if self._missed:
            notes.append(f"lmd leaves out {self._missed} of {total} frames in which no face was detected")
        return (float(np.mean(self._distances)) if self._distances else None), notes


def mediapipe_detector() -> LandmarkDetector:
    """A detector on MediaPipe's face mesh (models inside the wheel), each frame on its own.

    Raises:
        ImportError: mediapipe, or a library under it, is not installed.
    """
    with quiet_native_stderr():
        from mediapipe.python.solutions import face_mesh

        mesh = face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1)
        # The graph starts in threads of its own and is only up, and done talking, after a first picture.
        mesh.process(np.zeros((64, 64, 3), np.uint8))
    announced = False

    def detect(frame: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "478 2"] | None:
        nonlocal announced
        with quiet_native_stderr(not announced):  # the landmark network talks when it sees its first face
            found = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
        if not found:
            return None
        announced = True
        height, width = frame.shape[:2]
        return np.array([(point.x * width, point.y * height) for point in found[0].landmark])

    return detect
