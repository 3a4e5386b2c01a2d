"""The avatar before training: Gaussians on the tracked head and body, colours from the frames, motion zero.

Pixels of a few frames with differing poses are lifted to head space: onto the tracked face mesh where it is, onto an
ellipsoid of hair and skull around it, onto a plane for neck and shoulders. Motion bases are zero, except that the
face's position bases may start from the geometric prior: how the landmarks move with each coefficient.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree

from avatar.config import ModelConfig
from avatar.conventions import BRANCHES, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.dataset import FrameSet
from avatar.model.anatomy import facial_motion, mean_mesh
from avatar.model.carry import carried_by_face
from avatar.model.gaussians import BASIS_UNITS, Branch, GaussianInit
from avatar.model.model import AvatarModel
from avatar.model.motion import BasisWeights, DriverFeatures

SOURCE_FRAMES = 8
"""How many frames, far apart in pose, lend their pixels."""
MOUTH_DEPTH_CM = 0.8
"""How far behind the lips the teeth and tongue start."""
TORSO_Z_CM = 0.0
"""Depth of the plane of neck and shoulders in head space."""
SKULL_CENTRE_CM = (0.0, 0.5, 0.0)
SKULL_RADII_CM = (8.0, 12.0, 9.5)
"""Average adult head with hair (breadth 15.5, length 19.5 cm), where the face mesh does not reach."""
SKIN_LOGIT = 4.0
"""Sigmoid(4) = 0.98: carried by the head (+) or the torso (-)."""
NECK_BLEND_CM = (-10.0, -16.0)
"""Heights (y, head space) between which the neck passes from head to torso."""
BRANCH_REGION = {"face": REGION_HEAD, "mouth": REGION_MOUTH, "torso": REGION_TORSO}


def initial_model(frames: FrameSet, config: ModelConfig, seed: int) -> AvatarModel:
    """The avatar at step 0 from the training frames."""
    rng = np.random.default_rng(seed)
    sources = diverse_frames(frames, SOURCE_FRAMES)
    motion = frames.training_motion()
    features = DriverFeatures.from_motion(motion).cpu()
    branches = {}
    for name in BRANCHES:
        settings = getattr(config, name)
        bases = settings.bases if config.motion == "basis" else 0
        count = max(1, round(settings.gaussians * config.start_fraction))
        branches[name] = Branch.from_init(_branch_init(frames, name, sources, count, rng), bases)
    backdrop = torch.from_numpy(frames.track.backdrop.astype(np.float32) / 255.0)
    torch.manual_seed(seed)  # the drivers' initial weights
    model = AvatarModel(frames.camera, branches, features, backdrop, config.driver_hidden, config.motion)
    for name, field in model.fields.items():
        field.place(branches[name].means, frames.device)
    for name, weights in model.drivers.items():
        if isinstance(weights, BasisWeights):
            weights.hold(features.unmoved(name, motion))
    driver = model.drivers["face"]
    if config.geometric_prior and isinstance(driver, BasisWeights):
        apply_geometric_prior(model.branch("face"), driver, features, frames.track.neutral)
    return model.to(frames.device)


def diverse_frames(frames: FrameSet, count: int) -> list[int]:
    """Training frames far apart in head pose and mouth opening (greedy farthest point), the reference frame first."""
    track, train = frames.track, frames.train_indices
    mouth = track.coefficients[:, [24]] * 10.0  # jawOpen, weighed like a 10 cm shift
    pose = track.camera_from_head[:, :3].copy()
    pose[:, :, :3] *= 10.0  # a radian counts like 10 cm
    points = np.concatenate([pose.reshape(len(pose), 12), mouth], axis=1)[train]
    first = int(np.argmin(np.abs(train - track.reference_frame)))
    chosen, distance = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(train)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [int(train[i]) for i in chosen]


def _branch_init(frames: FrameSet, name: str, sources: list[int], count: int, rng: np.random.Generator) -> GaussianInit:
    points, colors = [], []
    wanted = BRANCH_REGION[name]
    masks = {i: _eroded(frames.track.regions.labels(i) == wanted) for i in sources}
    areas = np.array([masks[i].sum() for i in sources], float)
    # The reference frame alone covers most of the person; the others fill in what it hides.
    share = areas * np.array([2.0] + [1.0] * (len(sources) - 1))
    if share.sum() == 0:
        return _fallback_init(frames, name, count, rng)
    for i, n in zip(sources, _apportion(share, count), strict=True):
        if n == 0:
            continue
        ys, xs = np.nonzero(masks[i])
        pick = rng.choice(len(ys), n, replace=len(ys) < n)
        pixels = np.stack([xs[pick], ys[pick]], axis=1) + rng.random((n, 2))
        points.append(lift_pixels(frames, i, name, pixels))
        colors.append(frames.picture(i)[ys[pick], xs[pick]] / 255.0)
    means = np.concatenate(points)
    return _as_init(means, np.concatenate(colors), name)


def _fallback_init(frames: FrameSet, name: str, count: int, rng: np.random.Generator) -> GaussianInit:
    """A branch whose region no source frame shows (a mouth that never opens): dark points where it would be."""
    lips = frames.track.neutral[[13, 14, 78, 308]]  # inner lips: upper, lower, left and right corner
    low, high = lips.min(0), lips.max(0)
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 0.4)
    if name == "torso":
        centre, half = np.array([0.0, -16.0, TORSO_Z_CM]), np.array([12.0, 3.0, 0.5])
    means = centre + (rng.random((count, 3)) * 2 - 1) * half - np.array([0, 0, MOUTH_DEPTH_CM])
    return _as_init(means, np.full((count, 3), 0.2), name)


def _as_init(means: Float[np.ndarray, "N 3"], colors: Float[np.ndarray, "N 3"], name: str) -> GaussianInit:
    if name == "face":
        skin = head_share_logits(means)
    else:
        skin = np.full(len(means), SKIN_LOGIT if name == "mouth" else -SKIN_LOGIT)
    spacing = _spacing(means)
    return GaussianInit(
        means=torch.from_numpy(means.astype(np.float32)),
        log_scales=torch.from_numpy(np.log(spacing).astype(np.float32))[:, None].repeat(1, 3),
        colors=torch.from_numpy(colors.astype(np.float32)),
        skin_logits=torch.from_numpy(skin.astype(np.float32)),
    )


def head_share_logits(
    means: Float[np.ndarray, "N 3"], blend_cm: tuple[float, float] = NECK_BLEND_CM
) -> Float[np.ndarray, " N"]:
    """Logit of how much the head carries points of head and neck, by their height; below the neck the torso does."""
    start, end = blend_cm
    return (np.clip((means[:, 1] - end) / (start - end), 0.0, 1.0) * 2 - 1) * SKIN_LOGIT


def _spacing(means: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Standard deviation that makes neighbours overlap: the mean distance to the three nearest, within limits."""
    if len(means) < 4:
        return np.full(len(means), 0.2)
    distance, _ = cKDTree(means).query(means, k=4)
    return np.clip(distance[:, 1:].mean(axis=1), 0.02, 1.0)


def _eroded(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The mask without its outermost pixels, whose colours are mixed, unless nothing would remain."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner if inner.sum() > 0.5 * mask.sum() else mask


def _apportion(share: Float[np.ndarray, " S"], count: int) -> Int[np.ndarray, " S"]:
    """Whole numbers proportional to `share` that add up to `count`."""
    exact = np.cumsum(share / share.sum() * count)
    return np.diff(np.round(exact).astype(np.int64), prepend=0)


def lift_pixels(
    frames: FrameSet, index: int, branch: str, pixels: Float[np.ndarray, "P 2"]
) -> Float[np.ndarray, "P 3"]:
    """Pixels of a frame to canonical points (head space for face and mouth, torso space for the torso), cm."""
    track, camera = frames.track, frames.camera
    pose = (track.camera_from_torso if branch == "torso" else track.camera_from_head)[index]
    rotation, origin = pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3]
    rays = np.concatenate([(pixels - [camera.cx, camera.cy]) / camera.focal_px, np.ones((len(pixels), 1))], axis=1)
    directions = rays @ rotation.T  # one unit along is one cm of camera depth
    depth = _plane_depth(origin, directions)
    if branch != "torso":
        skull = _skull_depth(origin, directions)
        depth = np.where(np.isnan(skull), depth, skull)
        mesh = _mesh_depth(track.neutral, pose, track.landmarks[index], pixels)
        depth = np.where(np.isnan(mesh), depth, mesh)
    if branch == "mouth":
        depth = depth + MOUTH_DEPTH_CM
    return origin + directions * depth[:, None]


def _plane_depth(origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    along = np.where(np.abs(directions[:, 2]) < 1e-6, -1e-6, directions[:, 2])
    return (TORSO_Z_CM - origin[2]) / along


def _skull_depth(origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """First hit with the skull's ellipsoid; NaN where a ray misses it."""
    o = (origin - SKULL_CENTRE_CM) / SKULL_RADII_CM
    d = directions / SKULL_RADII_CM
    a, b, c = (d * d).sum(1), d @ o, o @ o - 1.0
    inside = b * b - a * c
    return np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0.0))) / a, np.nan)


def _mesh_depth(
    neutral: Float[np.ndarray, "478 3"],
    pose: Float[np.ndarray, "4 4"],
    landmarks: Float[np.ndarray, "478 2"],
    pixels: Float[np.ndarray, "P 2"],
) -> Float[np.ndarray, " P"]:
    """Depth of the tracked face under a pixel; NaN outside the mesh."""
    z = neutral @ pose[2, :3] + pose[2, 3]
    return LinearNDInterpolator(landmarks[:468], z[:468])(pixels)


def apply_geometric_prior(
    face: Branch,
    driver: BasisWeights,
    features: DriverFeatures,
    neutral: Float[np.ndarray, "478 3"],
) -> None:
    """Starts the face's position bases from the landmarks' motion per unit coefficient.

    The prior's field on the Gaussians, (52, 3N), weighted by how much each coefficient moves (with a floor, so that
    unseen coefficients keep their motion), is cut to the first K singular vectors; the driver's linear map becomes
    the matching projection. At the mean expression nothing moves.
    """
    k = face.basis_count
    mesh = mean_mesh(neutral, features.coefficient_mean.numpy())
    field = carried_by_face(face.means.detach().double().numpy(), mesh, facial_motion())  # (52, N, 3) cm per unit
    std = features.coefficient_std.numpy()
    scaled = torch.from_numpy((field * std[:, None, None]).reshape(52, -1).astype(np.float32))
    u, s, vt = torch.linalg.svd(scaled, full_matrices=False)
    keep = min(k, int((s > 1e-6).sum()))
    with torch.no_grad():
        # scaled = U S V: weight j of features f is f·U_j * amplitude_j, its basis S_j V_j / amplitude_j.
        driver.linear.weight[:keep].zero_()
        driver.linear.weight[:keep, :52] = u[:, :keep].T
        units = torch.tensor(BASIS_UNITS[:3])
        face.bases[:keep, :, :3] = (s[:keep, None] * vt[:keep]).view(keep, face.count, 3) / units
