"""Where the head is and where the eyes look: sliders, and handles to drag in the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from avatar.geometry import euler_from_matrix, inverse, matrix_from_euler, matrix_from_quat, quat_from_matrix, rigid
from avatar.viewer.orbit import world_from_camera

if TYPE_CHECKING:
    from avatar.viewer.session import Session

LARGEST_GAZE, LARGEST_TURN, LARGEST_SHIFT = 35.0, 40.0, 8.0
"""Degrees, degrees, cm."""
EYES_CM = np.array([0.0, 3.0, 9.0])
"""About where the eyes are in head space; the gaze handle hangs before them."""
REACH_CM = 16.0
"""From the eyes to the gaze handle."""
HANDLE_CM = 7.0
LABELS = ("Turn", "Nod", "Tilt"), ("Right", "Up", "Forward"), ("Look right", "Look up")


class HeadPanel:
    def __init__(self, session: Session) -> None:
        self._session = session
        gui: Any = session.client.gui
        self._handles_on = gui.add_checkbox("Handles", False, hint="Drag the head and the gaze in the picture")
        self._gaze = [gui.add_slider(n, -LARGEST_GAZE, LARGEST_GAZE, 0.5, 0.0, hint="degrees") for n in LABELS[2]]
        self._turn = [gui.add_slider(n, -LARGEST_TURN, LARGEST_TURN, 0.5, 0.0, hint="degrees") for n in LABELS[0]]
        self._shift = [gui.add_slider(n, -LARGEST_SHIFT, LARGEST_SHIFT, 0.1, 0.0, hint="cm") for n in LABELS[1]]
        reset = gui.add_button("Reset head and gaze", icon="refresh", color="gray")
        head = world_from_camera(session.depth) @ session.avatar.rest_pose("camera_from_head")
        self._world_from_head = head
        self._add_handles()
        for slider in (*self._gaze, *self._turn, *self._shift):
            slider.on_update(lambda event: event.client is not None and self._slid())

        @reset.on_click
        def _(_) -> None:
            for slider in (*self._gaze, *self._turn, *self._shift):
                slider.value = 0.0
            self._slid()

        @self._handles_on.on_update
        def _(_) -> None:
            self._place_handles()

    def _add_handles(self) -> None:
        scene: Any = self._session.client.scene
        options: dict[str, Any] = {"depth_test": False, "visible": False, "line_width": 3.0, "disable_sliders": True}
        self._head = scene.add_transform_controls("/head", scale=HANDLE_CM, **options)
        self._target = scene.add_transform_controls(
            "/gaze", scale=HANDLE_CM / 2, disable_rotations=True, active_axes=(True, True, False), **options
        )
        scene.add_label("/gaze/label", "gaze")
        # written handles call back as well, so only what differs from the sliders counts as a drag
        self._head.on_update(lambda event: event.client is not None and self._dragged_head())
        self._target.on_update(lambda event: event.client is not None and self._dragged_gaze())

    def _slid(self) -> None:
        self._tell()
        self._place_handles()

    def _tell(self) -> None:
        gaze, turn, shift = (tuple(float(s.value) for s in g) for g in (self._gaze, self._turn, self._shift))
        # "nod" is up on the slider, while positive pitch in head axes is down
        turn = (turn[0], -turn[1], turn[2])
        self._session.change(gaze=gaze, turn=turn, shift=shift)

    def _place_handles(self) -> None:
        """Handles where the sliders say."""
        turn, shift = self._values(self._turn), self._values(self._shift)
        head = self._world_from_head.copy()
        head[:3, :3] = head[:3, :3] @ matrix_from_euler(np.radians(turn * [1, -1, 1]))
        head[:3, 3] += shift
        with self._session.client.atomic():
            self._head.wxyz, self._head.position = quat_from_matrix(head[:3, :3]), head[:3, 3]
            self._place_gaze(head)
            self._head.visible = self._target.visible = bool(self._handles_on.value) and not self._session.compare

    def _place_gaze(self, world_from_head: np.ndarray) -> None:
        """The gaze handle before the eyes of a head in a pose."""
        right, up = self._values(self._gaze)
        point = EYES_CM + matrix_from_euler(np.radians([right, -up, 0.0])) @ [0.0, 0.0, REACH_CM]
        self._target.wxyz = quat_from_matrix(world_from_head[:3, :3])
        self._target.position = world_from_head[:3, :3] @ point + world_from_head[:3, 3]

    def _dragged_pose(self) -> np.ndarray:
        """world_from_head where the head's handle was dragged to."""
        return rigid(matrix_from_quat(np.asarray(self._head.wxyz, float)), np.asarray(self._head.position, float))

    def _dragged_head(self) -> None:
        pose = self._dragged_pose()
        angles = np.degrees(euler_from_matrix(self._world_from_head[:3, :3].T @ pose[:3, :3])) * [1, -1, 1]
        _write(self._turn, angles, LARGEST_TURN)
        _write(self._shift, pose[:3, 3] - self._world_from_head[:3, 3], LARGEST_SHIFT)
        self._place_gaze(pose)
        self._tell()

    def _dragged_gaze(self) -> None:
        at = inverse(self._dragged_pose()) @ np.append(np.asarray(self._target.position, float), 1.0)
        right, up, out = at[:3] - EYES_CM
        _write(self._gaze, np.degrees(np.arctan2([right, up], max(out, 1.0))), LARGEST_GAZE)
        self._tell()

    @staticmethod
    def _values(sliders: list[Any]) -> np.ndarray:
        return np.array([float(s.value) for s in sliders])

    def refresh(self) -> None:
        visible = bool(self._handles_on.value) and not self._session.compare
        if self._head.visible != visible:
            self._place_handles()


def _write(sliders: list[Any], values: np.ndarray, largest: float) -> None:
    for slider, value in zip(sliders, values, strict=True):
        slider.value = round(float(np.clip(value, -largest, largest)), 1)
