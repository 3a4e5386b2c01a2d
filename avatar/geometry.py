"""Rigid transforms and the pinhole camera, on NumPy, with the axes and names of `conventions`.

Rotations are converted by `roma` (float64 on the CPU); everything else is a line of linear algebra.
"""

from __future__ import annotations

import numpy as np
import roma
import torch
from jaxtyping import Float

from avatar.types import Camera


def matrix_from_rotvec(rotvec: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation matrices of rotation vectors (axis times angle in radians), by Rodrigues' formula."""
    x, y, z = np.moveaxis(np.asarray(rotvec, dtype=np.float64), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    angle = np.sqrt(x * x + y * y + z * z)[..., None, None]
    # np.sinc keeps sin(a) / a and (1 - cos a) / a^2 = sinc(a / 2)^2 / 2 exact at zero
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (cross @ cross)


def rotvec_from_matrix(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Rotation vectors (axis times angle in radians, angle in 0..pi) of rotation matrices."""
    return roma.rotmat_to_rotvec(_tensor(matrix)).numpy()


def matrix_from_quat(quat: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation matrices of quaternions (wxyz, normalised here)."""
    quat_xyzw = roma.quat_wxyz_to_xyzw(_tensor(quat))
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quat_xyzw, dim=-1)).numpy()


def quat_from_matrix(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 4"]:
    """Unit quaternions (wxyz, w >= 0) of rotation matrices."""
    quat = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(_tensor(matrix))).numpy()
    return quat * np.copysign(1.0, quat[..., :1])


def nearest_rotation(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """The rotation closest (Frobenius norm) to each 3x3 matrix."""
    return roma.special_procrustes(_tensor(matrix)).numpy()


def rigid(rotation: Float[np.ndarray, "*b 3 3"], translation: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 4 4"]:
    """4x4 transforms from rotation matrices and translations."""
    out = np.zeros((*translation.shape[:-1], 4, 4), dtype=np.float64)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = translation
    out[..., 3, 3] = 1
    return out


def columns_at(
    moments: Float[np.ndarray, " M"], times: Float[np.ndarray, " N"], values: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, "M D"]:
    """Each column between the times it is known at; held before and after."""
    return np.stack([np.interp(moments, times, column) for column in values.T], axis=1)


def poses_at(
    moments: Float[np.ndarray, " M"], times: Float[np.ndarray, " N"], poses: Float[np.ndarray, "N 4 4"]
) -> Float[np.ndarray, "M 4 4"]:
    """Rigid transforms between those of increasing `times`: shortest turn, straight shift; held before and after."""
    if len(times) == 1:
        return np.repeat(poses, len(moments), axis=0)
    after = np.searchsorted(times, moments, side="right").clip(1, len(times) - 1)
    share = ((moments - times[after - 1]) / (times[after] - times[after - 1])).clip(0, 1)[:, None]
    first, second = poses[after - 1], poses[after]
    turn = rotvec_from_matrix(np.swapaxes(first[:, :3, :3], -1, -2) @ second[:, :3, :3])
    rotation = first[:, :3, :3] @ matrix_from_rotvec(share * turn)
    return rigid(rotation, (1 - share) * first[:, :3, 3] + share * second[:, :3, 3])


def inverse(target_from_source: Float[np.ndarray, "*b 4 4"]) -> Float[np.ndarray, "*b 4 4"]:
    """source_from_target of rigid transforms."""
    rotation = np.swapaxes(target_from_source[..., :3, :3], -1, -2)
    origin = (rotation @ target_from_source[..., :3, 3:])[..., 0]
    return rigid(rotation, np.negative(origin))


def transform(
    target_from_source: Float[np.ndarray, "*b 4 4"], points: Float[np.ndarray, "*#b n 3"]
) -> Float[np.ndarray, "*b n 3"]:
    """Points carried from the source to the target space."""
    rotation, translation = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    return points @ np.swapaxes(rotation, -1, -2) + translation[..., None, :]


def project(camera: Camera, points: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 2"]:
    """Pixels (x right, y down, pixel centres at +0.5) of camera-space points with z > 0."""
    centre = np.array([camera.cx, camera.cy])
    return camera.focal_px * points[..., :2] / points[..., 2:] + centre


def unproject(
    camera: Camera, pixels: Float[np.ndarray, "*b 2"], depth: Float[np.ndarray, "*#b"]
) -> Float[np.ndarray, "*b 3"]:
    """Camera-space points, cm, seen at `pixels` at the given z, cm."""
    centre = np.array([camera.cx, camera.cy])
    xy = (pixels - centre) * (depth / camera.focal_px)[..., None]
    return np.concatenate([xy, np.broadcast_to(depth[..., None], (*xy.shape[:-1], 1))], axis=-1)


def euler_from_matrix(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Yaw, pitch, roll in radians with matrix = Ry(yaw) Rx(pitch) Rz(roll)."""
    return roma.rotmat_to_euler("YXZ", _tensor(matrix), as_tuple=False).numpy()


def matrix_from_euler(angles: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation matrices Ry(yaw) Rx(pitch) Rz(roll) of yaw, pitch, roll in radians."""
    return roma.euler_to_rotmat("YXZ", _tensor(angles)).numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
