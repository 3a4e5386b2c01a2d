"""Transforms and camera: round trips, group axioms near and far from the identity, projection."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from avatar import geometry
from avatar.types import Camera

CAMERA = Camera(800.0, 256.0, 250.0, 512, 500)


@pytest.fixture
def rotvecs():
    axes = np.random.default_rng(0).normal(size=(5, 3))
    angles = np.array([1e-9, 1e-4, 0.3, 1.0, 3.0])
    return axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]


def test_rotvec_and_quaternion_round_trips(rotvecs):
    matrix = geometry.matrix_from_rotvec(rotvecs)
    np.testing.assert_allclose(geometry.rotvec_from_matrix(matrix), rotvecs, atol=1e-7)
    quat = geometry.quat_from_matrix(matrix)
    assert (quat[:, 0] >= 0).all()
    np.testing.assert_allclose(geometry.matrix_from_quat(3 * quat), matrix, atol=1e-12)


def test_quaternion_is_wxyz():
    np.testing.assert_allclose(geometry.quat_from_matrix(np.eye(3)), [1, 0, 0, 0], atol=1e-12)


def test_quarter_turn_about_z_carries_x_to_y():
    turn = geometry.matrix_from_rotvec(np.array([0, 0, np.pi / 2]))
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_euler_round_trip_and_order():
    angles = np.array([[0.4, -0.2, 0.1], [-1.2, 0.5, -0.3]])
    matrix = geometry.matrix_from_euler(angles)
    np.testing.assert_allclose(geometry.euler_from_matrix(matrix), angles, atol=1e-12)
    yaw, pitch, roll = (geometry.matrix_from_rotvec(angles[0, k] * axis) for k, axis in enumerate(np.eye(3)[[1, 0, 2]]))
    np.testing.assert_allclose(matrix[0], yaw @ pitch @ roll, atol=1e-12)


def test_nearest_rotation_of_a_scaled_noisy_one(rotvecs):
    matrix = geometry.matrix_from_rotvec(rotvecs)
    noisy = 2.5 * matrix + np.random.default_rng(1).normal(0, 1e-6, matrix.shape)
    found = geometry.nearest_rotation(noisy)
    np.testing.assert_allclose(found, matrix, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(geometry.nearest_rotation(-matrix)), 1)


def test_inverse_and_composition(rotvecs):
    transforms = geometry.rigid(geometry.matrix_from_rotvec(rotvecs), rotvecs * 10)
    np.testing.assert_allclose(geometry.inverse(transforms) @ transforms, np.tile(np.eye(4), (5, 1, 1)), atol=1e-12)
    points = np.random.default_rng(2).normal(size=(7, 3))
    chained = geometry.transform(transforms[2], geometry.transform(transforms[3], points))
    np.testing.assert_allclose(geometry.transform(transforms[2] @ transforms[3], points), chained, atol=1e-12)


def test_projection_and_its_inverse():
    points = np.array([[1.0, -2.0, 50.0], [0.0, 0.0, 20.0]])
    pixels = geometry.project(CAMERA, points)
    np.testing.assert_allclose(pixels, [[256 + 16, 250 - 32], [256, 250]])
    np.testing.assert_allclose(geometry.unproject(CAMERA, pixels, points[:, 2]), points)


def test_scaled_camera_sees_the_same():
    point = np.array([1.0, -2.0, 50.0])
    half = CAMERA.scaled(256, 250)
    np.testing.assert_allclose(geometry.project(half, point), geometry.project(CAMERA, point) / 2)


def test_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        geometry.matrix_from_rotvec(np.zeros((4, 2)))
