"""One drawing: an avatar in a pose, from a view, in its own colours or in those of an overlay."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from avatar.dataset import motion_tensors
from avatar.model import Avatar, compose, to_bytes
from avatar.raster import MovingGaussians
from avatar.viewer.pose import Pose

OVERLAYS: Final = ("none", "branches", "skin weights")
BRANCH_TINTS: Final = {"face": (0.95, 0.60, 0.25), "mouth": (0.90, 0.15, 0.40), "torso": (0.20, 0.50, 0.90)}
HEAD_TINT: Final = (0.98, 0.75, 0.15)
TORSO_TINT: Final = (0.25, 0.15, 0.70)
TINT_SHARE: Final = 0.7
"""Of an overlay in the colour; the rest is the picture's brightness, so that the shape can be seen."""
GROUND: Final = (20, 23, 27)
"""Colour of the page around the picture."""


@torch.no_grad()
def draw(
    avatar: Avatar, pose: Pose, view_from_camera: Float[np.ndarray, "4 4"], side: int, overlay: str = "none"
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the avatar over its backdrop.

    The pose drives the avatar as the clip's camera sees it; the view only moves the eye. The backdrop is a plate and
    stays where it is.

    Args:
        view_from_camera: where the eye is, see `orbit`; the identity is the clip's own view.
        side: width of the picture, px.
        overlay: one of OVERLAYS.
    """
    model = avatar.model
    motion = motion_tensors(pose.as_motion(), model.backdrop.device)
    gaussians = model.moving(motion)
    if overlay != "none":
        gaussians = {name: _tinted(name, moving, overlay) for name, moving in gaussians.items()}
    poses = np.stack([view_from_camera @ p for p in (pose.camera_from_head, pose.camera_from_torso)])[None, :, :3]
    camera = avatar.camera.scaled(side, round(side * avatar.camera.height / avatar.camera.width))
    seen = torch.as_tensor(np.ascontiguousarray(poses, np.float32), device=model.backdrop.device)
    image = compose(gaussians, seen, camera, model.backdrop_at(camera), backend=model.rasterizer).image
    return to_bytes(image[0])


def _tinted(name: str, moving: MovingGaussians, overlay: str) -> MovingGaussians:
    if overlay == "branches":
        tint = moving.colors.new_tensor(BRANCH_TINTS[name])
    else:
        skin = torch.sigmoid(moving.skin_logits).unsqueeze(-1)
        tint = skin * skin.new_tensor(HEAD_TINT) + (1 - skin) * skin.new_tensor(TORSO_TINT)
    grey = moving.colors.mean(dim=-1, keepdim=True)
    return moving._replace(colors=TINT_SHARE * tint * (0.5 + grey) + (1 - TINT_SHARE) * grey)


def resized(picture: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at another size."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def on_page(picture: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in the middle of a page; what does not fit is cut off evenly."""
    page = np.empty((height, width, 3), np.uint8)
    page[:] = GROUND
    ph, pw = picture.shape[:2]
    h, w = min(ph, height), min(pw, width)
    top, left, from_top, from_left = (height - h) // 2, (width - w) // 2, (ph - h) // 2, (pw - w) // 2
    page[top : top + h, left : left + w] = picture[from_top : from_top + h, from_left : from_left + w]
    return page
