"""The demo person as geometry: rest shape, paint, and the deformed vertices for given coefficients and poses.

World space here is GL eye space: x right, y up, the camera at the origin looking along -z, cm. It is OpenCV camera
space turned half around the x axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar.conventions import BLENDSHAPE_INDEX

from . import head_asset, parts, strands
from .mesh import subdivide

GL_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])
GAZE_RADIANS = {"In": 0.50, "Out": 0.50, "Up": 0.40, "Down": 0.45}
"""Turn of the eyeball at an eyeLook coefficient of 1."""
HAIR_COUNT = 20_000


@dataclass(frozen=True)
class Pose:
    """One frame's motion."""

    coefficients: np.ndarray
    """(52,) 0..1."""
    camera_from_head: np.ndarray
    camera_from_torso: np.ndarray


@dataclass(frozen=True)
class Posed:
    """Everything that moves, ready for the GPU; world space unless said otherwise."""

    skin: np.ndarray
    skin_normals: np.ndarray
    tongue: np.ndarray
    tongue_normals: np.ndarray
    brows: np.ndarray
    """(N, P, 3)."""
    lashes: np.ndarray
    world_from_head: np.ndarray
    world_from_torso: np.ndarray
    world_from_lower_teeth: np.ndarray
    world_from_eyes: np.ndarray
    """(2, 4, 4)."""


class Person:
    """Built once; `posed` is cheap."""

    def __init__(self, seed: int) -> None:
        self.asset = asset = head_asset.load()
        count = len(asset.vertices)
        # Skin under the clothes is never seen.
        bare = asset.vertices[asset.body_quads][:, :, 1].max(1) > -27.0
        shoulder = np.abs(asset.vertices[asset.body_quads][:, :, 0]).min(1) > 11.0
        self.skin = subdivide(asset.body_quads[bare & ~shoulder], count, 2)
        self.tongue = subdivide(asset.tongue_quads, count, 2)
        self.rest = asset.vertices.copy()
        tongue = np.unique(asset.tongue_quads)
        # The base mesh's tongue fills the mouth: narrower, and down from the palate.
        self.rest[tongue] = (self.rest[tongue] - [0, -7.4, 3.5]) * [0.84, 0.75, 1.0] + [0, -7.75, 3.4]
        self.rest_skin = (self.skin.matrix @ asset.vertices).astype(np.float32)
        self.rest_tongue = (self.tongue.matrix @ self.rest).astype(np.float32)
        self.fine_share = self.skin.matrix @ asset.head_share
        self.masks = np.clip(self.skin.matrix @ asset.masks, 0, 1)
        self.eyeball = parts.eyeball(asset.eye_radius)
        self.upper_teeth = parts.denture(True, -7.36, 7.80)
        self.lower_teeth = parts.denture(False, -7.26, 7.56)
        self.clothes = parts.clothes(asset)
        bare = (self.fine_share < 0.98) | (self.masks[:, 2] > 0.15)
        self.hair = strands.grow_hair(self.rest_skin, self.skin, bare, HAIR_COUNT, seed)
        self.brows, self.brow_binding = strands.grow_brows(self.rest_skin, self.skin, seed + 1)
        self.lashes, self.lash_binding = strands.grow_lashes(asset, seed + 2)
        self._landmark_index = self._find_landmarks()

    def _find_landmarks(self) -> dict[str, int]:
        """Fine skin vertices of some well-known points of the face."""
        p, lips = self.rest_skin, self.masks[:, 0] > 0.5
        middle = (np.abs(p[:, 0]) < 0.05) & (p[:, 2] > 4)
        lid = self.masks[:, 1] > 0.05

        def best(score: np.ndarray, where: np.ndarray) -> int:
            return int(np.argmax(np.where(where, score, -np.inf)))

        found = {
            "nose_tip": best(p[:, 2], middle), "chin": best(-p[:, 1] * 0.6 + p[:, 2] * 0.4, middle & (p[:, 1] > -12)),
            "upper_lip": best(p[:, 2], middle & lips & (p[:, 1] > -7.15)),
            "lower_lip": best(p[:, 2], middle & lips & (p[:, 1] < -7.35)),
        }  # fmt: skip
        for side, sign in (("left", 1), ("right", -1)):
            found[f"mouth_corner_{side}"] = best(sign * p[:, 0], lips & (p[:, 2] > 6.5))
            centre = self.asset.eye_centres[0 if sign > 0 else 1]
            margin = lid & (np.abs(np.linalg.norm(p - centre, axis=1) - self.asset.eye_radius) < 0.12)
            margin &= (p[:, 2] > centre[2]) & (np.abs(p[:, 1] - centre[1]) < 0.6)
            found[f"eye_outer_{side}"] = best(sign * p[:, 0], margin & (sign * p[:, 0] > 0))
            found[f"eye_inner_{side}"] = best(-sign * p[:, 0], margin & (sign * p[:, 0] > 0))
        return found

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """Names of the rows of `landmarks`; left and right are the person's own."""
        return tuple(self._landmark_index)

    def neutral_landmarks(self) -> np.ndarray:
        """(K, 3) in head space at rest, cm."""
        return self.rest_skin[list(self._landmark_index.values())]

    def landmarks(self, posed: Posed) -> np.ndarray:
        """(K, 3) in camera space (OpenCV axes), cm."""
        return posed.skin[list(self._landmark_index.values())] * [1, -1, -1]

    def paint(self) -> np.ndarray:
        """(V, 7) lips, blush, beard, scalp, around the eyes, inside of the mouth, ear; 0..1 at fine skin vertices."""
        p = self.rest_skin
        x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]

        def blob(cx, cy, cz, r):
            return np.exp(-(((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / r**2))

        lips = np.clip(self.masks[:, 0] * 1.4 - 0.2, 0, 1)
        inside = np.clip((self.masks[:, 3] - 0.5) * 3, 0, 1) * (z < 8.35)
        blush = 0.85 * blob(4.2, -3.4, 6.8, 2.3) + 0.9 * blob(0, -3.9, 10.0, 1.25) + 0.5 * blob(0, -10.6, 8.2, 1.2)
        blush = np.clip(blush + 0.2 * blob(1.2, -4.6, 8.8, 0.8), 0, 1)
        # Beard: jaw, chin and upper lip, fading on the cheeks and down the neck.
        cheek_line = -5.4 - 0.35 * np.clip(6.5 - x, 0, 6) + 0.0 * z
        beard = strands._ramp(cheek_line - y, -0.6, 1.8) * strands._ramp(y, -15.5, -12.0) * strands._ramp(z, -1.5, 1.2)
        moustache = strands._ramp(-5.0 - y, 0, 0.7) * strands._ramp(2.6 - x, -0.4, 0.8) * strands._ramp(z, 6.5, 7.5)
        beard = np.clip(np.maximum(beard, moustache * 0.9), 0, 1) * (1 - lips) * (1 - inside)
        under_lip = np.exp(-(((x - 1.3) / 0.8) ** 2)) * np.exp(-(((y + 8.9) / 0.5) ** 2))
        beard *= 1 - 0.5 * under_lip
        scalp = strands.scalp_density(p) * (self.fine_share > 0.9) * (self.masks[:, 2] < 0.4)
        orbit = np.exp(-(((x - 2.9) / 1.9) ** 2)) * np.exp(-(((y + 1.0) / 1.1) ** 2)) * (z > 5)
        orbit = np.clip(orbit * 0.8 + 0.7 * blob(1.35, 0.2, 7.0, 0.8) + 0.35 * self.masks[:, 1], 0, 1)
        return np.stack([lips, blush, beard, scalp, orbit, inside, self.masks[:, 2]], 1).astype(np.float32)

    def deformed(self, coefficients: np.ndarray) -> np.ndarray:
        """Coarse vertices (V, 3) in head space under an expression, head and torso not yet moved."""
        active = np.flatnonzero(coefficients)
        return self.rest + np.tensordot(coefficients[active], self.asset.shapes[active], 1)

    def posed(self, pose: Pose) -> Posed:
        """All moving parts for one frame."""
        head = GL_FROM_CAMERA @ pose.camera_from_head
        torso = GL_FROM_CAMERA @ pose.camera_from_torso
        coarse = self.deformed(pose.coefficients)
        share = self.asset.head_share[:, None]
        with_head, with_torso = (coarse @ m[:3, :3].T + m[:3, 3] for m in (head, torso))
        world = (share * with_head + (1 - share) * with_torso).astype(np.float32)
        skin, tongue = self.skin.matrix @ world, self.tongue.matrix @ world
        return Posed(
            skin=skin, skin_normals=self.skin.normals(skin), tongue=tongue, tongue_normals=self.tongue.normals(tongue),
            brows=self.brow_binding.carried(skin, self.skin.quads), lashes=self.lash_binding.carried(world),
            world_from_head=head, world_from_torso=torso,
            world_from_lower_teeth=head @ self._jaw(coarse), world_from_eyes=self._eyes(pose.coefficients, head),
        )  # fmt: skip

    def _jaw(self, coarse: np.ndarray) -> np.ndarray:
        """Rigid motion (4, 4) of the lower teeth in head space: the best fit to where the shapes carry them."""
        index = self.asset.lower_teeth
        before, after = self.asset.vertices[index], coarse[index]
        a, b = before.mean(0), after.mean(0)
        u, _, vt = np.linalg.svd((before - a).T @ (after - b))
        turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        result = np.eye(4)
        result[:3, :3], result[:3, 3] = turn, b - turn @ a
        return result

    def _eyes(self, c: np.ndarray, head: np.ndarray) -> np.ndarray:
        """World transforms (2, 4, 4) of the eyeballs, the person's left one first."""
        result = []
        for side, outwards, centre in zip(("Left", "Right"), (1, -1), self.asset.eye_centres, strict=True):
            look = {k: GAZE_RADIANS[k] * c[BLENDSHAPE_INDEX[f"eyeLook{k}{side}"]] for k in GAZE_RADIANS}
            yaw, pitch = outwards * (look["Out"] - look["In"]), look["Up"] - look["Down"]
            ry = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
            rx = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
            local = np.eye(4)
            local[:3, :3], local[:3, 3] = ry @ rx, centre
            result.append(head @ local)
        return np.array(result)
