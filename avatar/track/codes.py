"""Appearance codes: how each frame differs from the clip's mean picture, in a few numbers of head, mouth and torso.

Coefficients and poses say little of how cloth folds, hair and neck move, skin shades and this mouth looks when round.
The pictures show it: laid over planes that follow head and torso, they vary mostly in a few ways, their principal
components (eigenfaces: Turk and Pentland 1991; appearance models: Cootes, Edwards and Taylor 1998). An avatar fitted
with a frame's components beside its motion need not blur what the motion leaves open. Where no picture is seen, the
avatar expects the likeliest ones (`avatar.model.motion`).

The components are learned without the held-out end of the clip, so that its codes are found as a new video's would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from avatar.conventions import CODES, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.geometry import project, transform
from avatar.track.mesh import OUTER_LIPS
from avatar.track.parallel import ahead, batches
from avatar.track.smooth import bridge
from avatar.track.solve import even_frames
from avatar.types import Camera, RegionReader

LEARNED_FRAMES = 400
"""Frames that the components are learned from."""
LEAST_FRAMES = 60
"""With fewer there is nothing to learn: no codes."""
SAMPLED_FRAMES = 24
"""Frames whose labels say which places of a plane show what it is meant to."""
PIXEL_CM = 0.25
"""Size of a pixel to which frames are brought, where they have as many."""
BLUR_CM = 0.22
BATCH = 32
HEAD_STEP_CM, MOUTH_STEP_CM, TORSO_STEPS = 0.35, 0.15, 64
HEAD_DEPTH_CM = -3.0
"""The plane through the head lies between face and ears."""
HEAD_MARGIN = 0.35
"""Of the face's size, on each side: hair, ears and neck."""
MOUTH_HALF_CM = (3.6, 3.2)


@dataclass(frozen=True)
class _Sheet:
    """Places on a plane [P, 3] in head space, cm; which pose carries them, the regions they should show, and how many
    components are kept."""

    points: np.ndarray
    torso: bool
    regions: tuple[int, ...]
    codes: int


def appearance_codes(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    regions: RegionReader,
    camera: Camera,
    neutral: Float[np.ndarray, "478 3"],
    camera_from_head: Float[np.ndarray, "N 4 4"],
    camera_from_torso: Float[np.ndarray, "N 4 4"],
    times: Float[np.ndarray, " N"],
    valid: Bool[np.ndarray, " N"],
    reference: int,
    learn_before: int,
    advance: Callable[[], None] = lambda: None,
) -> Float32[np.ndarray, "N C"] | None:
    """Codes of all frames (conventions.CODES), about 0 and of unit size; bridged where frames are not valid. None for
    clips with fewer than LEAST_FRAMES frames to learn from.

    Args:
        read: gives frame i, RGB.
        neutral: neutral head, cm.
        camera_from_head, camera_from_torso: smoothed poses.
        reference: the frame in which the torso's canonical place is defined.
        learn_before: the first frame that teaches nothing.
        advance: called once per valid frame.
    """
    indices = np.flatnonzero(valid)
    seen = indices[indices < learn_before]
    if len(seen) < LEAST_FRAMES:
        for _ in indices:
            advance()
        return None
    poses = {False: camera_from_head, True: camera_from_torso}
    sheets = _sheets(camera, neutral, camera_from_torso[reference])
    sheets = [_kept(sheet, poses[sheet.torso], camera, regions, seen) for sheet in sheets]
    pixels_per_cm = camera.focal_px / float(np.median(camera_from_head[indices, 2, 3]))
    scale = min(1.0, 1 / (PIXEL_CM * pixels_per_cm))

    def looks(i: int) -> list[np.ndarray]:
        small = _small(read(i), scale, max(0.6, BLUR_CM * pixels_per_cm * scale))
        return [_look(small, scale, camera, sheet.points, poses[sheet.torso][i]) for sheet in sheets]

    learned = seen[even_frames(len(seen), LEARNED_FRAMES)]
    shown = []
    for look in ahead(len(learned), lambda k: looks(int(learned[k]))):
        shown.append(look)
        advance()
    bases = [_components(np.array(of), sheet.codes) for of, sheet in zip(zip(*shown, strict=True), sheets, strict=True)]

    def coded(look: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([(x - mean) @ axes for x, (mean, axes) in zip(look, bases, strict=True)])

    codes = np.zeros((len(valid), sum(CODES.values())))
    codes[learned] = [coded(look) for look in shown]
    rest = np.setdiff1d(indices, learned)
    parts = [rest[part] for part in batches(len(rest), BATCH)]
    for part, found in zip(parts, ahead(len(parts), lambda k: [coded(looks(int(i))) for i in parts[k]]), strict=True):
        codes[part] = found
        for _ in part:
            advance()
    # as the avatar's file keeps them, so that scores are the same before and after it is read back
    return bridge(codes, times, valid).astype(np.float16).astype(np.float32)


def _sheets(camera: Camera, neutral: np.ndarray, torso: Float[np.ndarray, "4 4"]) -> list[_Sheet]:
    """The planes of head, mouth and torso, in the order of conventions.CODES."""
    low, high = neutral[:, :2].min(axis=0), neutral[:, :2].max(axis=0)
    margin = HEAD_MARGIN * (high - low)
    head = _plane(low - margin, high + margin, HEAD_STEP_CM, HEAD_DEPTH_CM)
    lips, half = neutral[list(OUTER_LIPS)].mean(axis=0), np.array(MOUTH_HALF_CM)
    mouth = _plane(lips[:2] - half, lips[:2] + half, MOUTH_STEP_CM, float(lips[2]))
    # The torso's plane faces the camera of the reference frame and fills its picture.
    depth = torso[2, 3]
    side = np.linspace(0, camera.width, TORSO_STEPS, endpoint=False) + camera.width / (2 * TORSO_STEPS)
    picture = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    across = (picture - [camera.cx, camera.cy]) * depth / camera.focal_px
    body = (np.column_stack([across, np.full(len(across), depth)]) - torso[:3, 3]) @ torso[:3, :3]
    counts = list(CODES.values())
    return [
        _Sheet(head, False, (REGION_HEAD, REGION_MOUTH), counts[0]),
        _Sheet(mouth, False, (REGION_HEAD, REGION_MOUTH), counts[1]),
        _Sheet(body, True, (REGION_TORSO,), counts[2]),
    ]


def _plane(low: np.ndarray, high: np.ndarray, step: float, depth: float) -> Float[np.ndarray, "P 3"]:
    x, y = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step))
    return np.stack([x, y, np.full_like(x, depth)], axis=-1).reshape(-1, 3)


def _pixels(camera: Camera, points: np.ndarray, pose: np.ndarray, scale: float) -> Float32[np.ndarray, "1 P 2"]:
    """Where OpenCV finds points in the scaled picture."""
    return (project(camera, transform(pose, points)) * scale - 0.5).astype(np.float32)[None]


def _kept(sheet: _Sheet, poses: np.ndarray, camera: Camera, regions: RegionReader, seen: np.ndarray) -> _Sheet:
    """The sheet with the places alone that show its regions in most frames."""
    import cv2

    share = np.zeros(len(sheet.points))
    for i in seen[even_frames(len(seen), SAMPLED_FRAMES)]:
        where = _pixels(camera, sheet.points, poses[i], 1.0)
        labels = cv2.remap(regions.labels(int(i)), where[..., 0], where[..., 1], cv2.INTER_NEAREST)[0]
        share += np.isin(labels, sheet.regions)
    return replace(sheet, points=sheet.points[share > SAMPLED_FRAMES / 2])


def _small(frame: UInt8[np.ndarray, "H W 3"], scale: float, blur: float) -> UInt8[np.ndarray, "h w 3"]:
    import cv2

    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(frame, (0, 0), blur)


def _look(small, scale: float, camera: Camera, points: np.ndarray, pose: np.ndarray) -> UInt8[np.ndarray, " P3"]:
    """Colours of the picture at the sheet's places; of a torso that is out of the picture there are none."""
    import cv2

    if not len(points):
        return np.zeros(0, np.uint8)
    where = _pixels(camera, points, pose, scale)
    seen = cv2.remap(small, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return seen.reshape(-1)


def _components(
    looks: UInt8[np.ndarray, "n X"], count: int
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, "X C"]]:
    """Mean look, and the axes along which looks vary most, scaled so that the codes have unit spread."""
    mean = looks.mean(axis=0, dtype=np.float32)
    centred = looks - mean
    power, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64) / len(looks))
    power, vectors = power[::-1][:count], vectors[:, ::-1][:, :count]
    usable = power > 1e-6 * max(float(power[0]), 1e-6)  # a region that never changes has fewer ways to
    spread = np.where(usable, np.maximum(power, 1e-12), np.inf)
    return mean, centred.T @ (vectors / (spread * len(looks) ** 0.5)).astype(np.float32)
