"""What went wrong in a clip and when, in the user's words: no face, a covered face, a cut."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from avatar.types import Finding

HIDDEN_SHARE = 0.62
"""A face whose skin looks as expected in less than this share of what is usual in the clip is covered or smeared."""
BENT_SHARE, BENT = 0.73, 2.0
"""The same share where the mesh lies this many times further from the person's head than usual. A plain hand looks much
like skin (shares of 0.62 to 0.71) but bends the mesh (2.5 to 3.3 times); motion blur gave 0.75, clean clips 0.71 and up
where the mesh is bent at all."""
HIDDEN_FRAMES = 3
"""Fewer such frames in a row are a blur or a blink of light, which the smoothing bears."""
THUMB_SIDE = 32
"""Pictures are compared at this size, px, to find cuts."""
CUT_GREY = 3.0
"""Least mean change from one frame to the next, grey levels, that can be a cut ..."""
CUT_RATIO = 8.0
"""... if it is this many times the usual change around it."""
BESIDE_RATIO = 3.0
"""... and this many times that of the frames right beside it."""
JUMP_GREY, JUMP_RATIO, JUMP_NEIGHBOURS = 2.0, 3.0, 3
"""A cut within one shot changes less: that many times the frames on either side. Clean clips reach 2.8."""
COMPANY_FRAMES = 3
"""A second face in fewer frames in a row is a false find."""
CUT_NEIGHBOURS = 12
"""Frames on either side that say what is usual."""


class CutDetector:
    """Finds the frames at which the picture jumps: a cut, or something as sudden."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Offers the next frame."""
        import cv2

        half = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
        small = cv2.resize(half, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        self._changes.append(0.0 if self._last is None else float(np.abs(small - self._last).mean()))
        self._last = small

    def cuts(self) -> list[int]:
        """Numbers of the frames that begin something new."""
        change, found = np.array(self._changes), []
        for i in np.flatnonzero(change > JUMP_GREY):
            near = np.delete(change[max(i - JUMP_NEIGHBOURS, 1) : i + JUMP_NEIGHBOURS + 1], min(i - 1, JUMP_NEIGHBOURS))
            sudden = len(near) > 1 and change[i] > JUMP_RATIO * near.max()
            around = np.delete(change[max(i - CUT_NEIGHBOURS, 1) : i + CUT_NEIGHBOURS + 1], min(i - 1, CUT_NEIGHBOURS))
            beside = change[[k for k in (i - 1, i + 1) if 0 < k < len(change)]]  # motion lasts, a cut is one frame long
            usual = max([0.1, float(np.median(around)) if len(around) else 0.0, *(beside * (BESIDE_RATIO / CUT_RATIO))])
            if sudden or (change[i] > CUT_GREY and change[i] > CUT_RATIO * usual):
                found.append(int(i))
        return found


def hidden_frames(
    agreement: Float[np.ndarray, "N 2"], error: Float[np.ndarray, " N"], valid: Bool[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Frames in which something covers the face: the skin does not look like itself for a while.

    Args:
        agreement: [N, 2] shares 0..1 of the seen skin that look as in the rest of the clip, of the whole face and
            around the mouth; ignored where not `valid`.
        error: [N] how far the mesh lies from the solved head, in any unit; ignored where not `valid`.
        valid: [N] frames with a face.
    """
    if not valid.any():
        return np.zeros(len(valid), bool)
    share = (agreement / np.median(agreement[valid], axis=0)).min(axis=1)
    bent = error > BENT * np.median(error[valid])
    return lasting(valid & ((share < HIDDEN_SHARE) | (bent & (share < BENT_SHARE))), HIDDEN_FRAMES)


def lasting(marked: Bool[np.ndarray, " N"], least: int) -> Bool[np.ndarray, " N"]:
    """The marked frames that are at least so many in a row."""
    out = np.zeros(len(marked), bool)
    for first, end in stretches(marked):
        out[first:end] = end - first >= least
    return out


def stretches(marked: Bool[np.ndarray, " N"]) -> list[tuple[int, int]]:
    """First and one past the last frame of each run of marked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def seconds_of(times: Float[np.ndarray, " N"], marked: Bool[np.ndarray, " N"]) -> str:
    """'3.2-5.0 s, 7.0-7.4 s' (at most five stretches named)."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    spans = [f"{times[a]:.1f}-{times[b - 1] + step:.1f}" for a, b in stretches(marked)]
    more = f" and {len(spans) - 5} more" if len(spans) > 5 else ""
    return ", ".join(spans[:5]) + " s" + more


def track_findings(
    times: Float[np.ndarray, " N"],
    faces: Bool[np.ndarray, " N"],
    hidden: Bool[np.ndarray, " N"],
    crowded: Bool[np.ndarray, " N"],
    cuts: list[int],
) -> tuple[Finding, ...]:
    """What the user should know, with the seconds concerned.

    Args:
        faces: frames with a face.
        hidden: see `hidden_frames`.
        crowded: frames with a second face of similar size.
        cuts: frames that begin something new.
    """
    found = []
    if not faces.all():
        found.append(f"no face in {seconds_of(times, ~faces)}; the motion there is bridged")
    if hidden.any():
        found.append(
            f"something covers the face, or the light jumps, in {seconds_of(times, hidden)}: those frames are not "
            "learned from, the motion there is bridged"
        )
    if (company := lasting(crowded, COMPANY_FRAMES)).any():
        found.append(f"there is a second face in {seconds_of(times, company)}: cut those parts out")
    clear = faces & ~hidden
    jumps = [i for i in cuts if clear[i] and clear[i - 1]]
    if jumps:
        named = ", ".join(f"{times[i]:.1f}" for i in jumps[:5]) + " s"
        found.append(f"the picture jumps at {named} (a cut?): use one shot, parts of different shots do not fit")
    return tuple(Finding("warning", text) for text in found)
