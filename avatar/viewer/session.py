"""One browser tab: its own motion, controls and view; draws when something changed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from avatar.evaluate.preview import side_by_side
from avatar.model import Avatar
from avatar.viewer import orbit
from avatar.viewer.controls import Controls, ceiling
from avatar.viewer.orbit import View
from avatar.viewer.picture import draw, on_page, resized
from avatar.viewer.playback import Playback
from avatar.viewer.pose import Pose
from avatar.viewer.resolution import Resolution
from avatar.viewer.sources import clip_source, rest_source
from avatar.viewer.subject import Subject
from avatar.viewer.training import RunWatch

if TYPE_CHECKING:
    import viser

SETTLE_SECONDS = 0.25
"""After the last change, until the picture is drawn at full size."""
SNAP_SECONDS = 0.5
"""After the last change, until a camera that was moved too far comes back."""
QUALITY_MOVING, QUALITY_STILL = 80, 92
"""JPEG quality."""


@dataclass(frozen=True)
class Wish:
    """Everything that a picture depends on; equal wishes, equal pictures."""

    version: int
    controls: Controls
    source: str
    seconds: float
    view: View
    overlay: str
    compare: bool
    page: tuple[int, int]
    moving: bool


class Session:
    """What a tab shows, and how to change it. Panels call the setters; the render loop draws."""

    def __init__(self, client: viser.ClientHandle, subject: Subject, watch: RunWatch | None = None) -> None:
        self.client, self.subject, self.watch = client, subject, watch
        avatar = self.avatar
        self.playback = Playback(clip_source(avatar, subject.capture) or rest_source(avatar))
        self.overlay, self.compare = "none", False
        self.depth = float(avatar.rest_pose("camera_from_head")[2, 3])
        self.drawn_side, self.frames_per_second = 0, 0.0
        self.panels: list[Any] = []
        self._controls, self._lock = Controls(), threading.Lock()
        self._resolution = Resolution(avatar.camera.width)
        self._drawn: Wish | None = None
        self._changed_at = self._pictures_since = time.monotonic()
        self._pictures = 0
        self.range = orbit.range_of(avatar.person.excerpt_head[:, :3])
        client.camera.on_update(lambda _: self.touched())

    # ------------------------------------------------------------------------------------------------ what is shown

    @property
    def avatar(self) -> Avatar:
        """The newest avatar."""
        return self.subject.current[0]

    @property
    def controls(self) -> Controls:
        return self._controls

    def change(self, **values: Any) -> None:
        """Sets fields of the controls."""
        with self._lock:
            self._controls = self._controls.changed(**values)
        self.touched()

    def edit(self, changes: dict[int, float]) -> None:
        """Sets coefficients by hand, from what is shown now; what plays is paused for that."""
        if self.playback.playing:
            self.playback.pause()
        with self._lock:
            values = self.shown_coefficients().copy()
            for index, value in changes.items():
                values[index] = value
            self._controls = self._controls.changed(edited=values)
        self.touched()

    def shown_coefficients(self) -> Float32[np.ndarray, "52"]:
        """The expression before emotions and gaze: edited by hand, or what plays."""
        edited = self._controls.edited
        return self.playback.pose(self.playback.seconds).coefficients if edited is None else edited

    def touched(self) -> None:
        """Something changed that the picture depends on."""
        self._changed_at = time.monotonic()

    def pose(self) -> Pose:
        """What is shown now."""
        return self.applied(self._controls, self.playback.seconds)

    def applied(self, controls: Controls, seconds: float) -> Pose:
        """What plays at a time, with some controls on top."""
        plays = self.playback.pose(seconds)
        pose = controls.applied(plays, ceiling(self.avatar.person))
        if pose.codes is None:
            return pose
        motion = self.avatar.with_codes_along(plays.as_motion(), pose.as_motion())
        return replace(pose, codes=None if motion.codes is None else motion.codes[0])

    def view(self) -> View:
        """Where the page's camera is, kept within the sensible range."""
        camera = self.client.camera
        return orbit.clamped(View.of(camera.position, camera.look_at), self.depth, self.range)

    def to_front(self) -> None:
        """The clip's own view."""
        self._place(orbit.front(self.depth))

    def _place(self, view: View) -> None:
        self.touched()  # first: between the two lines below the camera is nowhere, and must not be snapped from there
        with self.client.atomic():
            self.client.camera.position = view.eye
            self.client.camera.look_at = view.target
        self.touched()

    # ------------------------------------------------------------------------------------------------------- drawing

    def draw_if_needed(self) -> bool:
        """Draws and sends a picture if anything changed; says whether it did."""
        now = time.monotonic()
        self._count(now, 0)
        since = now - self._changed_at
        wish = self._wish(moving=self.playback.playing or since < SETTLE_SECONDS)
        if since > SNAP_SECONDS and not self.playback.playing:
            self._snap(wish.view)
        if wish == self._drawn:
            return False
        page, side = self._page_picture(wish)
        quality = QUALITY_MOVING if wish.moving else QUALITY_STILL
        self.client.scene.set_background_image(page, format="jpeg", jpeg_quality=quality)
        if wish.moving:
            self._resolution.took(time.monotonic() - now, side)
        self._drawn, self.drawn_side = wish, side
        self._count(now, 1)
        return True

    def _wish(self, moving: bool) -> Wish:
        camera = self.client.camera
        return Wish(
            self.subject.current[1], self._controls, self.playback.source.name, self.playback.seconds, self.view(),
            self.overlay, self.compare, (camera.image_width, camera.image_height), moving,
        )  # fmt: skip

    def _page_picture(self, wish: Wish) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
        """The whole page, and the width of the avatar's picture in it."""
        width, height = wish.page
        aspect = max(width, 1) / max(height, 1)
        avatar = self.avatar
        pose = self.applied(wish.controls, wish.seconds)
        eye = orbit.view_from_camera(wish.view, self.depth)
        if wish.compare and (real := self.subject.real_frame(self._clip_seconds(wish.seconds))) is not None:
            side = self._resolution.side(round(min(height * 0.9, width / 2.05)), wish.moving)
            drawn = draw(avatar, pose, eye, side, wish.overlay)
            both = side_by_side([resized(real, drawn.shape[1], drawn.shape[0]), drawn], ["the clip", "the avatar"])
            scale = max(both.shape[1] / aspect / both.shape[0], 1.0)
            page_height = round(both.shape[0] * scale)
            return on_page(both, round(page_height * aspect), page_height), side
        share = orbit.frame_share(avatar.camera, aspect, orbit.field_of_view(avatar.camera, aspect))
        side = self._resolution.side(round(height * share * avatar.camera.width / avatar.camera.height), wish.moving)
        drawn = draw(avatar, pose, eye, side, wish.overlay)
        page_height = round(drawn.shape[0] / share)
        return on_page(drawn, round(page_height * aspect), page_height), side

    def _clip_seconds(self, seconds: float) -> float:
        """The clip's time that belongs to what plays (the start for a source that is not the clip)."""
        source = self.playback.source
        return float(source.motion.times[0]) + seconds if source.is_clip else 0.0

    def _snap(self, view: View) -> None:
        """Brings the page's camera to where it was clamped, and its field of view to the page's shape."""
        camera = self.client.camera
        fov = orbit.field_of_view(self.avatar.camera, max(camera.image_width, 1) / max(camera.image_height, 1))
        if abs(camera.fov - fov) > 1e-3:
            camera.fov = fov
        there = np.concatenate([camera.position, camera.look_at])
        if np.abs(there - np.concatenate([view.eye, view.target])).max() > 1e-3 * self.depth:
            self._place(view)

    def _count(self, now: float, pictures: int) -> None:
        """Keeps `frames_per_second` over about a second."""
        self._pictures += pictures
        if now - self._pictures_since > 1.0:
            self.frames_per_second = self._pictures / (now - self._pictures_since)
            self._pictures, self._pictures_since = 0, now

    def refresh(self) -> None:
        """Brings the side panel up to date."""
        for panel in self.panels:
            panel.refresh()
