"""What can be played: the resting person, the clip's own motion, a motion file, speech."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from avatar.drive import file_source
from avatar.errors import UserError
from avatar.media import read_speech
from avatar.model import Avatar
from avatar.speech import speech_to_motion
from avatar.types import Capture
from avatar.viewer.playback import Source

MOTION_SUFFIXES = (".csv", ".json")


def rest_source(avatar: Avatar) -> Source:
    """The mean expression in the reference pose."""
    return Source("rest", avatar.rest_motion(np.zeros(1)))


def clip_source(avatar: Avatar, capture: Capture | None) -> Source | None:
    """The clip's own motion, with its sound where the decoded clip is at hand; None where the file keeps no motion."""
    if avatar.motion is None:
        return None
    audio = None if capture is None else capture.audio
    return Source("the clip", avatar.motion, audio, is_clip=True)


def opened_source(avatar: Avatar, path: Path) -> Source:
    """A CSV or JSON motion track, or speech from any sound or video file.

    Raises:
        UserError: unreadable, or speech for an avatar that has not learned to speak.
    """
    if path.suffix.lower() in MOTION_SUFFIXES:
        motion = file_source(avatar, path, None)
        if len(motion.times) < 2:
            raise UserError(f"{path.name} holds a single frame; there is nothing to play.")
        return Source(path.name, motion)
    samples = read_speech(path)
    return Source(path.name, speech_to_motion(avatar.stream(), samples), samples)


def uploaded_source(avatar: Avatar, name: str, content: bytes) -> Source:
    """The same for a file that came from the browser.

    Raises:
        UserError: as `opened_source`.
    """
    plain = Path(name).name or "upload"
    with tempfile.TemporaryDirectory(prefix="avatar-view-") as folder:
        # only the ending of the sender's name is used on this disk
        path = Path(folder) / f"upload{Path(plain).suffix[:8]}"
        path.write_bytes(content)
        try:
            return dataclasses.replace(opened_source(avatar, path), name=plain)
        except UserError as error:
            raise UserError(str(error).replace(str(path), plain).replace(path.name, plain)) from error
