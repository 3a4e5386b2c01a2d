"""Head pose from the picture itself: frames are aligned to the person's own texture on the solved mesh.

Landmarks of a detector wander over the skin by a pixel or so from frame to frame; the skin's own pattern does not. A
few thousand points on the mesh without eyes, brows and lips are compared in a band-passed picture, so that slow
changes of light do not matter.

1. Bundle adjustment over some dozens of varied frames: their poses are solved together so that every surface point
   shows the same in all of them. What it shows (the texture) is eliminated: at given poses it is the weighted mean.
2. Every frame is then aligned to that texture by Gauss-Newton on its six pose numbers (direct alignment, Lucas and
   Kanade 1981), robustly and held to the landmark solution where the picture says little.

Focal length and depth stay the landmarks': solved along here, they drift to explain light that moves over the skin
(measured on the demo capture). Frames are read one at a time; only those of step 1 are kept, as small pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, UInt8

from avatar.geometry import matrix_from_rotvec, rotvec_from_matrix
from avatar.track.keyframes import resampling
from avatar.track.linear import geman_mcclure, solve, square
from avatar.track.mesh import (
    FACE_OVAL,
    INNER_LIPS,
    LEFT_BROW,
    LEFT_EYE,
    OUTER_LIPS,
    RIGHT_BROW,
    RIGHT_EYE,
    SKIN_POINTS,
    landmark_noise,
    triangles,
)  # fmt: skip
from avatar.track.parallel import ahead, batches
from avatar.track.solve import Head, Poses, View, even_frames, seen_share, small_turn, varied_frames

POINTS = 3000
"""Surface points that are compared."""
COARSE_SIDE, FINE_SIDE = 90, 220
"""Height of the face in pixels at which the coarse and the fine band are computed, where the frame has as much."""
COARSE_REACH, FINE_REACH = 0.25, 0.12
"""Room around the mesh over its size: twice the wide blur of either band."""
FINE_SIGMA, COARSE_SIGMA = 1.0, 6.0
"""Band of the compared pattern, in those pixels: finer than the first is noise, coarser than the second is light."""
AT_ONCE = 8
"""Frames that are looked at together: enough that threads need not wait for one another, few enough for a cache."""
BUNDLE_FRAMES = 56
"""Frames of the bundle adjustment."""
BUNDLE_STEPS = (8, 6)
"""Its iterations on the coarse band, then on the fine one."""
ALIGN_STEPS = (14, 8)
"""Most iterations of a frame's alignment on either band; most frames need two or three."""
CONVERGED = (0.05, 0.01)
"""An alignment ends on either band when no pose number changes by more than this part of POSE_SIGMA."""
POSE_SIGMA = np.array([0.035, 0.035, 0.02, 0.4, 0.4, 1.5])
"""Trust in a landmark pose: radians about and cm along the camera's axes."""
POINTS_PER_FACT = 30.0
"""Neighbouring surface points err together (shading, expression): so many count as one measurement."""
OUTLIER = 2.5
"""Standard deviations beyond which a surface point loses its influence."""
MOUTH_CM = 4.0
"""Skin this near to the mouth's middle says whether something covers it."""
BROW_CM = 0.6
"""Within this of a brow point nothing counts: brows have the strongest pattern of the face and move most."""
NOISE_GREY = 2.0
"""Grey levels by which the pattern differs between two frames at best."""


@dataclass(frozen=True)
class Surface:
    """Points on the mesh: corners [M, 3], barycentric weights [M, 3], normals [3, M], how steady each is [M], which
    ones lie around the mouth [M]."""

    corners: np.ndarray
    bary: np.ndarray
    normals: Float32[np.ndarray, "3 M"]
    steadiness: Float32[np.ndarray, " M"]
    around_mouth: np.ndarray

    def on(self, values: Float[np.ndarray, "*b 478 3"]) -> Float32[np.ndarray, "*b 3 M"]:
        """Values at the landmarks carried to the surface points."""
        return np.einsum("mk,...mkj->...jm", self.bary, values[..., self.corners, :]).astype(np.float32)


class _MovingSurface:
    """Where the surface points lie in head space under an expression."""

    def __init__(self, surface: Surface, head: Head) -> None:
        self._neutral = surface.on(head.neutral)
        self._basis = surface.on(head.basis).reshape(len(head.basis), self._neutral.size)

    def at(self, expression: Float[np.ndarray, "B K"]) -> Float32[np.ndarray, "B 3 M"]:
        """The points, cm."""
        return self._neutral + (expression.astype(np.float32) @ self._basis).reshape(-1, *self._neutral.shape)


def refine_poses(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    head: Head,
    view: View,
    poses: Poses,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Poses, Float[np.ndarray, "N 2"]]:
    """Poses aligned to the person's own texture, and the share 0..1 of the seen skin that shows it in each frame: of
    the steady skin of the whole face, and of all skin around the mouth.

    Args:
        read: gives frame i (of the frames with a face), RGB.
        head: neutral head and expression basis of the landmark solution.
        view: its camera.
        poses: its poses; expressions are kept.
        advance: called once per frame.
    """
    surface = sample_surface(head.neutral, landmark_noise(), POINTS)
    moving = _MovingSurface(surface, head)
    bundle = _Bundle(read, surface, moving, view, poses)
    for band, steps in enumerate(BUNDLE_STEPS):
        for _ in range(steps):
            bundle.improve(band)
    textures = [bundle.texture(band) for band in range(len(BUNDLE_STEPS))]

    parts = batches(len(poses.rotation), AT_ONCE)

    def aligned(k: int):
        own = parts[k]
        frames = [read(i) for i in range(own.start, own.stop)]
        points = moving.at(poses.expression[own])
        return _align(frames, points, surface, textures, view, poses.rotation[own], poses.translation[own])

    rotation, translation = np.empty_like(poses.rotation), np.empty_like(poses.translation)
    agreement = np.ones((len(rotation), 2))
    for own, found in zip(parts, ahead(len(parts), aligned), strict=True):
        rotation[own], translation[own], agreement[own] = found
        for _ in range(own.start, own.stop):
            advance()
    return Poses(rotation, translation, poses.expression), agreement


def sample_surface(neutral: Float[np.ndarray, "478 3"], looseness: Float[np.ndarray, " 478"], count: int) -> Surface:
    """Even points over the mesh; those on and beside the eyes, brows and lips have no or little weight.

    Args:
        neutral: [478, 3] cm.
        looseness: [478] how much expression moves each landmark, 1 = not at all (weights are its inverse square).
        count: number of points.
    """
    faces = triangles().astype(int)
    apart = np.zeros(SKIN_POINTS, bool)
    apart[list({*INNER_LIPS, *OUTER_LIPS, *RIGHT_EYE, *LEFT_EYE})] = True
    faces = faces[apart[faces].sum(1) < 2]
    faces = faces[np.isin(faces, FACE_OVAL).sum(1) < 2]  # the outermost ring is hair or backdrop as often as skin
    a, b, c = (neutral[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1)
    normal = normal / area[:, None]
    normal = np.where((normal[:, 2] < 0)[:, None], -normal, normal)
    rng = np.random.default_rng(0)
    # stratified over the summed area: even cover without clumps
    where = (np.arange(count) + rng.random(count)) / count * area.sum()
    chosen = np.searchsorted(np.cumsum(area), where).clip(0, len(faces) - 1)
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    bary = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    loose = (looseness[faces[chosen]] * bary).sum(1)
    normals, steadiness = normal[chosen].T.astype(np.float32), (1 / loose**2).astype(np.float32)
    surface = Surface(faces[chosen], bary, normals, steadiness, np.zeros(count, bool))
    brows, points = neutral[[*LEFT_BROW, *RIGHT_BROW], :2], surface.on(neutral)[:2].T
    distance = np.linalg.norm(points[:, None] - brows, axis=-1).min(axis=1)
    around_mouth = np.linalg.norm(points - neutral[list(OUTER_LIPS), :2].mean(axis=0), axis=1) < MOUTH_CM
    steadiness *= np.clip((distance - BROW_CM) / 0.3, 0, 1).astype(np.float32)
    return replace(surface, steadiness=steadiness, around_mouth=around_mouth)


class _Bundle:
    """Poses of a few varied frames, solved together with the texture eliminated."""

    def __init__(self, read, surface: Surface, moving: _MovingSurface, view: View, poses: Poses) -> None:
        count = len(poses.rotation)
        spread = even_frames(count, BUNDLE_FRAMES // 2)
        turned = varied_frames(poses.rotation[:, :, 2], min(count, BUNDLE_FRAMES // 2))
        frames = np.unique(np.concatenate([spread, turned]))
        self._surface, self._view = surface, view
        self._start = poses.at(frames)
        self._rotation, self._translation = self._start.rotation.copy(), self._start.translation.copy()
        self._points = moving.at(self._start.expression)
        self._bands = list(
            ahead(len(frames), lambda k: _bands(read(int(frames[k])), _pixels(self._points[k], self._start, k, view)))
        )

    def improve(self, band: int) -> None:
        """One Gauss-Newton step on one band."""
        count = len(self._bands)
        look = self._look(band)
        texture, scale = _mean_texture(look)
        residual = texture - look.value
        weight = look.weight * _influence(residual, scale)
        weighted = look.jacobian * weight[:, None]
        blocks = np.zeros((count, 6, count, 6))
        blocks[np.arange(count), :, np.arange(count)] = weighted @ np.swapaxes(look.jacobian, 1, 2)
        normal, coupling = blocks.reshape(6 * count, -1), weighted.reshape(6 * count, -1)
        gradient = (weighted @ residual[..., None]).reshape(-1).astype(np.float64)
        pull, weight_sum = (weight * residual).sum(axis=0), weight.sum(axis=0) + np.float32(1e-9)
        # the texture follows the poses: marginalise it
        normal -= square(coupling / np.sqrt(weight_sum))
        gradient -= coupling @ (pull / weight_sum)
        turned = rotvec_from_matrix(self._start.rotation @ np.swapaxes(self._rotation, 1, 2))
        away = np.concatenate([turned, self._start.translation - self._translation], axis=1).reshape(-1)
        trust = np.tile(POSE_SIGMA**-2.0, count)
        change = solve(normal + np.diag(trust), gradient + trust * away).reshape(-1, 6)
        self._rotation = matrix_from_rotvec(change[:, :3]) @ self._rotation
        self._translation = self._translation + change[:, 3:]

    def texture(self, band: int):
        """What each surface point shows [M] and how much that varies [M], grey levels."""
        return _mean_texture(self._look(band))

    def _look(self, band: int) -> _Look:
        parts = batches(len(self._bands), AT_ONCE)

        def look(k: int):
            own = parts[k]
            bands = [pair[band] for pair in self._bands[own]]
            return _look(
                bands, self._points[own], self._surface, self._view, self._rotation[own], self._translation[own]
            )

        looks = list(ahead(len(parts), look))
        return _Look(*(np.concatenate([getattr(one, n) for one in looks]) for n in ("value", "weight", "jacobian")))


@dataclass(frozen=True)
class _Look:
    """Surface points in some frames: brightness, weight, change of brightness with the pose."""

    value: Float32[np.ndarray, "B M"]
    weight: Float32[np.ndarray, "B M"]
    jacobian: Float32[np.ndarray, "B 6 M"]


def _look(bands: list[_Band], points, surface: Surface, view: View, rotation, translation) -> _Look:
    turn = rotation.astype(np.float32)
    rotated = turn @ points
    camera = rotated + translation.astype(np.float32)[..., None]
    scale = np.float32(view.focal) / camera[:, 2]
    pixels = camera[:, :2] * scale[:, None] + np.float32(view.centre)
    sample = np.stack([band.sample(where) for band, where in zip(bands, pixels, strict=True)])
    jacobian = np.empty((len(points), 6, points.shape[2]), np.float32)
    slope, (x, y, z) = jacobian[:, 3:], np.swapaxes(rotated, 0, 1)
    np.multiply(sample[:, 1:], scale[:, None], out=slope[:, :2])
    np.divide(slope[:, 0] * camera[:, 0] + slope[:, 1] * camera[:, 1], -camera[:, 2], out=slope[:, 2])
    np.subtract(y * slope[:, 2], z * slope[:, 1], out=jacobian[:, 0])
    np.subtract(z * slope[:, 0], x * slope[:, 2], out=jacobian[:, 1])
    np.subtract(x * slope[:, 1], y * slope[:, 0], out=jacobian[:, 2])
    away, distance = (np.einsum("bjm,bjm->bm", part, camera) for part in (turn @ surface.normals, camera))
    return _Look(sample[:, 0], surface.steadiness * seen_share(-away / np.sqrt(distance)), jacobian)


def _pixels(points, poses: Poses, k: int, view: View):
    """Where the points [3, M] lie in frame k. [M, 2]"""
    return view.project(points.T @ poses.rotation[k].T + poses.translation[k])


def _mean_texture(look: _Look):
    """Robust mean over the frames of what each surface point shows, and its scatter, both [M]."""
    values, visible = look.value, look.weight
    middle = np.median(values, axis=0)
    scale = np.hypot(1.4826 * np.median(np.abs(values - middle), axis=0), NOISE_GREY)
    weight = visible * geman_mcclure(((values - middle) / (OUTLIER * scale)) ** 2)
    return (weight * values).sum(0) / np.maximum(weight.sum(0), 1e-9), scale


def _influence(residual, scale):
    """Geman-McClure weight of each surface point, as inverse variance. [M]"""
    return geman_mcclure((residual / (OUTLIER * scale)) ** 2) / (scale**2 * POINTS_PER_FACT)


@dataclass(frozen=True)
class _Band:
    """Band-passed brightness and its two gradients [h, w, 3] of a part of the frame.

    Its pixel = frame pixel * scale - corner."""

    image: np.ndarray
    scale: Float[np.ndarray, " 2"]
    corner: Float[np.ndarray, " 2"]

    def sample(self, pixels: Float32[np.ndarray, "2 M"]) -> Float32[np.ndarray, "3 M"]:
        """Brightness and gradients per frame pixel at pixels of the frame (centres at +0.5)."""
        import cv2

        scale, corner = (part.astype(np.float32)[:, None] for part in (self.scale, self.corner + 0.5))
        across, down = pixels * scale - corner
        found = cv2.remap(self.image, across[None], down[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(found[0].T)


def _bands(frame, pixels) -> list[_Band]:
    """The frame around the face in a coarse and a fine band, at working resolutions that the face's size calls for."""
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    side = float((high - low).max())
    return [
        _band(frame, low - reach * side, high + reach * side, min(1.0, height / side))
        for height, reach in ((COARSE_SIDE, COARSE_REACH), (FINE_SIDE, FINE_REACH))
    ]


def _band(frame, low, high, scale: float) -> _Band:
    """The band of the frame from corner `low` to corner `high`, px, reduced by about `scale`."""
    import cv2

    size = frame.shape[0]
    left, top = np.clip(np.floor(low), 0, size - 8).astype(int)
    right, bottom = np.clip(np.ceil(high), 8, size).astype(int)
    grey = cv2.cvtColor(frame[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    shape = (max(8, round(grey.shape[1] * scale)), max(8, round(grey.shape[0] * scale)))
    small = cv2.resize(grey, shape, interpolation=resampling(scale)) if scale < 1 else grey
    exact = np.array(small.shape[::-1]) / np.array(grey.shape[::-1])
    fine = cv2.GaussianBlur(small.astype(np.float32), (0, 0), FINE_SIGMA)
    wide = 2 * round(COARSE_SIGMA) + 1
    band = fine - cv2.blur(cv2.blur(fine, (wide, wide)), (wide, wide))
    slope_x = cv2.Sobel(band, cv2.CV_32F, 1, 0, ksize=3, scale=exact[0] / 8)
    slope_y = cv2.Sobel(band, cv2.CV_32F, 0, 1, ksize=3, scale=exact[1] / 8)
    return _Band(cv2.merge([band, slope_x, slope_y]), exact, np.array([left, top]) * exact)


def _align(frames, points, surface: Surface, textures, view: View, rotation, translation):
    """Gauss-Newton on the six pose numbers of each of B frames, coarse to fine, held to where it starts.

    Returns rotations, translations and the two shares of the surface that show the texture on the coarse band [B, 2].
    """
    start = Poses(rotation, translation, np.zeros((len(frames), 0)))
    bands = [_bands(frame, _pixels(points[k], start, k, view)) for k, frame in enumerate(frames)]
    rotation, translation, agreement = rotation.copy(), translation.copy(), np.ones((len(frames), 2))
    hold = POSE_SIGMA**-2.0
    for band, (texture, scale) in enumerate(textures):
        moving = np.arange(len(frames))
        for _ in range(ALIGN_STEPS[band]):
            turn, place = rotation[moving], translation[moving]
            seen = _look([bands[k][band] for k in moving], points[moving], surface, view, turn, place)
            residual = texture - seen.value
            weighted = seen.jacobian * (seen.weight * _influence(residual, scale))[:, None]
            away = small_turn(start.rotation[moving] @ np.swapaxes(turn, 1, 2)), start.translation[moving] - place
            normal = weighted @ np.swapaxes(seen.jacobian, 1, 2) + np.diag(hold)
            gradient = (weighted @ residual[..., None])[..., 0] + hold * np.concatenate(away, axis=1)
            change = solve(normal, gradient)
            rotation[moving] = matrix_from_rotvec(change[:, :3]) @ turn
            translation[moving] = place + change[:, 3:]
            if band == 0:
                agreement[moving] = _agreement(seen.weight, residual / (OUTLIER * scale), surface.around_mouth)
            moving = moving[np.abs(change / POSE_SIGMA).max(axis=1) >= CONVERGED[band]]
            if not len(moving):
                break
    return rotation, translation, agreement


def _agreement(weight, off, around_mouth) -> Float[np.ndarray, "B 2"]:
    """Share of the seen surface, and of what is seen of it around the mouth, that looks like the texture."""
    alike = geman_mcclure(off**2)
    shares = [(alike * w).sum(axis=1) / np.maximum(w.sum(axis=1), 1e-9) for w in (weight, around_mouth * (weight > 0))]
    return np.stack(shares, axis=1).astype(np.float64)
