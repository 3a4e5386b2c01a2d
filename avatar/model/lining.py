"""What lies behind the surface: a coarse lining of head and neck.

A clip shows its person from the front, and what is fitted to it is a shell that ends where the clip's own turns end: a
head that turns further would open gaps beside ears, jaw and hair through which the backdrop shows. The lining is a
layer of opaque Gaussians inside the head. A point belongs to it if it lies inside the person's outline in every frame
that is looked at (visual hull, Laurentini, "The visual hull concept", 1994) and well behind the fitted surface, so that
it changes nothing the clip shows. Its colour is that of the nearest fitted Gaussians.

It is carried by the head but drawn with the torso, the last layer: there it hides neither the mouth nor the collar.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import cKDTree

from avatar.dataset import FrameSet
from avatar.geometry import project, transform
from avatar.model.gaussians import Branch, joined
from avatar.model.initialise import SKULL_CENTRE_CM, SKULL_RADII_CM, diverse_frames, head_share_logits
from avatar.model.model import AvatarModel

SPACING_CM = 0.9
"""Distance between neighbours."""
SIGMA_CM = 0.5
"""Standard deviation of each: neighbours overlap to a closed layer."""
BEHIND_CM = 1.5
"""Least depth below the fitted surface."""
LEAST_Z_CM = -6.0
"""What lies further back shows only in turns that no avatar from a frontal clip can make."""
NECK_BLEND_CM = (-4.0, -11.0)
"""Higher than for the surface of the neck: a nod must not push what is inside it through the collar."""
NECK_CENTRE_Z_CM, NECK_RADIUS_CM, NECK_TOP_CM, NECK_END_CM = -2.0, 4.0, -6.0, -15.0
OUTLINE_FRAMES = 32
"""Frames, far apart in pose, whose outlines are looked at."""
SOLID_MATTE = 250
"""Matte (of 255) from which a pixel counts as inside the person."""
OPACITY_LOGIT = 5.0
NEIGHBOURS = 8


@torch.no_grad()
def add_lining(model: AvatarModel, frames: FrameSet) -> int:
    """Lines a fitted model, in place; returns how many Gaussians that took.

    Args:
        model: with linear bases; the lining has none of its own and moves with head and neck.
        frames: those the model was fitted to.
    """
    face = model.branch("face")
    means, opacity = face.means.cpu().numpy(), torch.sigmoid(face.opacity_logits).cpu().numpy()
    solid = opacity > 0.5
    if solid.sum() < NEIGHBOURS:
        return 0
    points = _candidates()
    points = points[_behind(points, means[solid])]
    points = points[_inside_outlines(points, frames)]
    points = points[_outermost(points)]
    if len(points) == 0:
        return 0
    distance, near = cKDTree(means[solid]).query(points, k=NEIGHBOURS)
    share = 1 / (distance + 0.1) ** 2
    colors = face.colors.cpu().numpy()[solid][near]
    lining = Branch(len(points), model.branch("torso").basis_count).to(face.means.device)
    lining.means.copy_(torch.from_numpy(points))
    lining.log_scales.fill_(float(np.log(SIGMA_CM)))
    lining.colors.copy_(torch.from_numpy((share[..., None] * colors).sum(1) / share.sum(1, keepdims=True)))
    lining.opacity_logits.fill_(OPACITY_LOGIT)
    lining.skin_logits.copy_(torch.from_numpy(head_share_logits(points, NECK_BLEND_CM)))
    model.branches["torso"] = joined(model.branch("torso"), lining)
    return len(points)


def _candidates() -> Float[np.ndarray, "P 3"]:
    """A grid through skull and neck, cm."""
    low = np.array([-SKULL_RADII_CM[0], NECK_END_CM, LEAST_Z_CM])
    high = np.add(SKULL_CENTRE_CM, SKULL_RADII_CM)
    axes = [np.arange(a, b, SPACING_CM) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    skull = (((points - SKULL_CENTRE_CM) / SKULL_RADII_CM) ** 2).sum(1) < 1
    across = np.hypot(points[:, 0], points[:, 2] - NECK_CENTRE_Z_CM)
    neck = (across < NECK_RADIUS_CM) & (points[:, 1] < NECK_TOP_CM)
    return points[skull | neck]


def _behind(points: Float[np.ndarray, "P 3"], surface: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " P"]:
    """Whether there is surface in front of a point (towards the camera is +z) and far enough away."""
    distance, near = cKDTree(surface[:, :2]).query(points[:, :2], k=NEIGHBOURS)
    # of a layered surface the rear one counts: hair has Gaussians at all depths
    front = np.percentile(surface[:, 2][near], 25, axis=1)
    return (distance.max(axis=1) < 2 * SPACING_CM) & (points[:, 2] < front - BEHIND_CM)


def _inside_outlines(points: Float[np.ndarray, "P 3"], frames: FrameSet) -> Bool[np.ndarray, " P"]:
    """Whether each point, with its extent, stays inside the person in every frame that is looked at."""
    track, camera = frames.track, frames.camera
    weight = (1 / (1 + np.exp(-head_share_logits(points, NECK_BLEND_CM))))[:, None]
    inside = np.ones(len(points), bool)
    for i in diverse_frames(frames, OUTLINE_FRAMES):
        head, torso = (transform(pose[i], points) for pose in (track.camera_from_head, track.camera_from_torso))
        seen = weight * head + (1 - weight) * torso
        column, row = np.floor(project(camera, seen)).astype(int).T
        solid = track.regions.matte(i) >= SOLID_MATTE
        depth = np.full(solid.shape, np.inf) if solid.all() else np.asarray(distance_transform_edt(solid))
        within = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
        reach = depth[row.clip(0, camera.height - 1), column.clip(0, camera.width - 1)]
        inside &= within & (reach > 2 * SIGMA_CM * camera.focal_px / seen[:, 2])
    return inside


def _outermost(points: Float[np.ndarray, "P 3"]) -> Bool[np.ndarray, " P"]:
    """Points of the grid with an empty place beside, above or in front of them: the others never show."""
    cell = np.round(points / SPACING_CM * 2).astype(int) // 2
    cell -= cell.min(axis=0, initial=0) - 1
    filled = np.zeros(cell.max(axis=0, initial=0) + 2, bool)
    filled[tuple(cell.T)] = True
    reach = np.zeros((3, 3, 3), bool)
    reach[[0, 2, 1, 1, 1], [1, 1, 0, 2, 1], [1, 1, 1, 1, 0]] = True  # an empty place at +z is at -z of that place
    return binary_dilation(~filled, reach)[tuple(cell.T)]
