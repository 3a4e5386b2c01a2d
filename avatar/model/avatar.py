"""`Avatar`: what one `.avatar` file holds, ready to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from avatar.conventions import BLENDSHAPE_INDEX, CODES
from avatar.dataset import motion_tensors
from avatar.errors import UserError
from avatar.files import under
from avatar.model.compose import to_bytes
from avatar.model.file import FAR, Metadata, load_avatar_file, save_avatar
from avatar.model.model import AvatarModel
from avatar.model.own_motion import motion_from_tensors, motion_to_tensors
from avatar.speech import (
    PersonStatistics,
    SpeechControls,
    SpeechEncoder,
    SpeechModel,
    SpeechStream,
    load_encoder,
)
from avatar.types import Camera, Motion

SIZES = (16, 4096)
"""Smallest and largest side of a picture, px."""
FRAMES_AT_ONCE = 4
"""Frames per rasterizer call when drawing a sequence."""


def _speech_model(settings: dict[str, Any], tensors: dict[str, Tensor]) -> SpeechModel:
    model = SpeechModel.from_config(settings)
    model.load_state_dict(tensors)
    model.eval().requires_grad_(False)
    width = model.config.encoder_width
    # settings that do not fit together fail here
    model(torch.zeros(1, 1, model.config.n_mels), torch.zeros(1, 1, width) if width else None)
    return model


@dataclass
class Avatar:
    """A talking avatar: draw it with `render` (one picture) or `frames` (a motion).

    >>> import avatar
    >>> someone = avatar.load("someone.avatar")                       # doctest: +SKIP
    >>> picture = someone.render({"jawOpen": 0.6, "mouthSmileLeft": 0.4})  # doctest: +SKIP
    """

    model: AvatarModel
    metadata: Metadata
    person: PersonStatistics
    speech: SpeechModel | None
    motion: Motion | None = None
    """The clip's own motion as tracked; None in files of early versions."""
    encoded: SpeechModel | None = None
    """A speech model that also hears the encoder named in ``metadata.encoded``."""

    @staticmethod
    def load(path: str | Path) -> Avatar:
        """Opens a file.

        Raises:
            UserError: missing, not an avatar, damaged, or of a newer schema.
        """
        model, metadata, extra = load_avatar_file(Path(path))
        try:
            person = PersonStatistics.from_tensors(under("person.", extra))
            if person.blink_shape.ndim != 1 or len(person.blink_shape) == 0:
                raise ValueError("a blink without a shape")
            speech = encoded = None
            if metadata.speech is not None:
                speech = _speech_model(metadata.speech, under("speech.", extra))
            if metadata.encoded is not None:
                encoded = _speech_model(metadata.encoded["settings"], under("encoded.", extra))
            motion = motion_from_tensors(under("motion.", extra))
        except (KeyError, ValueError, TypeError, RuntimeError, ArithmeticError):  # the last: a network of no width
            raise UserError(
                f"{path} is damaged or was made by an older version: its motion statistics or "
                f"speech model cannot be read; fit the clip again."
            ) from None
        return Avatar(model, metadata, person, speech, motion, encoded)

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            UserError: the place cannot be written.
        """
        extra = {f"person.{k}": v for k, v in self.person.to_tensors().items()}
        if self.speech is not None:
            extra |= {f"speech.{k}": v for k, v in self.speech.state_dict().items()}
        if self.encoded is not None:
            extra |= {f"encoded.{k}": v for k, v in self.encoded.state_dict().items()}
        if self.motion is not None:
            extra |= {f"motion.{k}": v for k, v in motion_to_tensors(self.motion).items()}
        save_avatar(Path(path), self.model, self.metadata, extra)

    def stream(
        self,
        fps: float | None = None,
        controls: SpeechControls | None = None,
        encoder: str | Path | SpeechEncoder | None = None,
    ) -> SpeechStream:
        """Speech to motion while it arrives: ``stream.push(samples)`` gives the frames that are complete.

        Args:
            fps: frames per second; None is the clip's own.
            controls: amplitude, emotion, head, eyes and seed.
            encoder: the speech encoder that the avatar was fitted with, or its folder (see `speech.encoder`); None does
                without.
        Raises:
            UserError: the avatar has no speech model, `fps` is out of range, or the encoder is another one than the
                avatar's or cannot be read.
        """
        if self.speech is None:
            raise UserError(
                "This avatar was made from a clip without sound and cannot be driven by speech; drive it with --track "
                "or --video, or fit a clip with sound."
            )
        fps = self.metadata.fps if fps is None else fps
        if encoder is None:
            return SpeechStream(self.speech, self.person, fps, controls)
        if self.encoded is None or self.metadata.encoded is None:
            raise UserError(
                "This avatar was fitted without a speech encoder; leave it out, or fit the clip with --speech-encoder."
            )
        encoder = (
            encoder if isinstance(encoder, SpeechEncoder) else load_encoder(Path(encoder), self.model.backdrop.device)
        )
        if encoder.sha256 != self.metadata.encoded["sha256"]:
            raise UserError(
                f"The speech encoder {encoder.name} is not {self.metadata.encoded['name']}, with which this avatar was"
                f" fitted; give that one, or none."
            )
        return SpeechStream(self.encoded, self.person, fps, controls, encoder)

    @property
    def camera(self) -> Camera:
        """The view of the clip."""
        return self.model.camera

    def rest_pose(self, name: str) -> Float[np.ndarray, "4 4"]:
        """``camera_from_head`` or ``camera_from_torso`` of the clip's reference frame."""
        pose = np.eye(4)
        pose[:3] = self.metadata.reference_pose[name]
        return pose

    def rest_coefficients(self) -> Float[np.ndarray, "52"]:
        """The person's mean expression."""
        return self.model.features.coefficient_mean.cpu().numpy().astype(np.float32)

    def rest_motion(self, times: Float[np.ndarray, " N"]) -> Motion:
        """The mean expression in the reference pose, held for the given times (seconds)."""
        n = len(times)
        return Motion(
            times=np.asarray(times, np.float64),
            coefficients=np.repeat(self.rest_coefficients()[None], n, axis=0),
            camera_from_head=np.repeat(self.rest_pose("camera_from_head")[None], n, axis=0),
            camera_from_torso=np.repeat(self.rest_pose("camera_from_torso")[None], n, axis=0),
        )

    def likeliest_codes(self, motion: Motion) -> Float32[np.ndarray, "N C"] | None:
        """Appearance codes that most likely go with a motion; None where the avatar has none."""
        codes = self.model.features.likeliest_codes(motion_tensors(motion, self.model.backdrop.device))
        return None if codes is None else codes.cpu().numpy()

    def with_codes_along(self, before: Motion, after: Motion) -> Motion:
        """A changed motion whose appearance codes, where it has any, moved as far as the change makes likely."""
        was, now = (None if before.codes is None else self.likeliest_codes(motion) for motion in (before, after))
        return after if was is None or now is None else replace(after, codes=before.codes + (now - was))

    def render(
        self,
        coefficients: Mapping[str, float] | Float[np.ndarray, "52"] | None = None,
        camera_from_head: Float[np.ndarray, "4 4"] | None = None,
        camera_from_torso: Float[np.ndarray, "4 4"] | None = None,
        size: int | None = None,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """One picture.

        Args:
            coefficients: all 52, or some by ARKit name (the others rest at the person's mean expression), 0..1.
            camera_from_head: head pose, cm; None rests.
            camera_from_torso: torso pose, cm; None rests.
            size: side of the picture in pixels; None is the avatar's own.
        Raises:
            UserError: an unknown coefficient name, a coefficient or pose that is not finite or of another shape, or a
                size out of SIZES.
        """
        motion = self.rest_motion(np.zeros(1))
        values = motion.coefficients.copy()
        if isinstance(coefficients, Mapping):
            for name, value in coefficients.items():
                if name not in BLENDSHAPE_INDEX:
                    raise UserError(f"There is no coefficient '{name}'; the names are ARKit's, for example jawOpen.")
                number = checked_numbers(value, (), f"The coefficient '{name}' must be a finite number")
                values[0, BLENDSHAPE_INDEX[name]] = number.clip(-FAR, FAR)
        elif coefficients is not None:
            wanted = "The coefficients must be 52 finite numbers, or some by name"
            values[0] = checked_numbers(coefficients, (len(BLENDSHAPE_INDEX),), wanted).clip(-FAR, FAR)
        poses = {"camera_from_head": camera_from_head, "camera_from_torso": camera_from_torso}
        for name, pose in poses.items():
            if pose is not None:
                pose = checked_numbers(pose, (4, 4), f"{name} must be a 4 x 4 matrix of finite numbers")
                motion = replace(motion, **{name: pose[None]})
        return next(self.frames(replace(motion, coefficients=values), size))

    def frames(
        self, motion: Motion, size: int | None = None, camera: Camera | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Draws a motion frame by frame, in constant memory.

        Args:
            size: side of the pictures in pixels; None is the camera's own.
            camera: another view than the clip's.
        Raises:
            UserError: a motion whose parts do not fit together or are not finite, or a size out of SIZES.
        """
        _check_motion(motion)
        camera = camera or self.camera
        if size is not None:
            if not isinstance(size, Integral):
                raise UserError(f"The size of a picture is a whole number of px, not {size!r}.")
            if not SIZES[0] <= size <= SIZES[1]:
                wrong = "small" if size < SIZES[0] else "large"
                raise UserError(
                    f"A picture of {size} px is too {wrong}; the smallest is {SIZES[0]}, the largest {SIZES[1]}."
                )
            camera = camera.scaled(int(size), round(int(size) * camera.height / camera.width))
        device = self.model.backdrop.device
        everything = motion_tensors(motion, device)
        for start in range(0, len(everything), FRAMES_AT_ONCE):
            part = slice(start, start + FRAMES_AT_ONCE)
            with torch.no_grad():
                image = self.model(everything.at(part), camera).image
            yield from to_bytes(image)


def _check_motion(motion: Motion) -> None:
    """Raises UserError for a motion that cannot be drawn."""
    count = len(np.atleast_1d(motion.times))
    poses = dict.fromkeys(("camera_from_head", "camera_from_torso"), (4, 4))
    shapes = {"times": (), "coefficients": (len(BLENDSHAPE_INDEX),), **poses, "codes": (sum(CODES.values()),)}
    for name, shape in shapes.items():
        values = getattr(motion, name)
        if name == "codes" and values is None:
            continue
        if np.shape(values) != (count, *shape):
            raise UserError(
                f"The motion cannot be drawn: its {name} are of shape {np.shape(values)}, not {(count, *shape)}."
            )
        if not np.isfinite(values).all():
            raise UserError(f"The motion cannot be drawn: not all of its {name} are finite numbers.")


def checked_numbers(given: Any, shape: tuple[int, ...], wanted: str) -> Float[np.ndarray, "..."]:
    """What a caller gave, as an array.

    Args:
        wanted: the beginning of the sentence to raise.
    Raises:
        UserError: it has another shape, or not all of it are finite numbers.
    """
    try:
        numbers = np.asarray(given)
    except (TypeError, ValueError):  # rows of different lengths
        numbers = np.array(None)
    if numbers.shape != shape or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        found = f"these of shape {numbers.shape}" if numbers.ndim else repr(given)
        raise UserError(f"{wanted}, not {found}.")
    return numbers.astype(np.float64)
