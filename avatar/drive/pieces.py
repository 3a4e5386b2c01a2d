"""A long video drawn in pieces, so that an interruption costs seconds and not hours.

Finished pieces lie as videos of their own in a hidden folder beside the output, with a note of what they are pieces of.
At the end they are joined without being coded again, the sound is added, and the folder goes. A run that is resumed
draws only what is missing; as pieces begin at the same frames in every run, the result is the same, byte by byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from avatar.errors import UserError, one_line
from avatar.files import explain_os_error, replacing
from avatar.media import VideoWriter, join_videos

PIECE_SECONDS = 20.0
"""At least this much in a piece."""
FORMAT = 1


class Pieces:
    """Writes frames to the pieces of a video; use as a context.

        with Pieces(output, fps, note, resume) as pieces:
            for block in blocks:
                if pieces.has(len(block)):      # drawn by an earlier run
                    pieces.skip(len(block))
                else:
                    for frame in draw(block):
                        pieces.add(frame)
                pieces.end_block()
            pieces.join(sound)

    An exception leaves the finished pieces, if there are any, for `resume`. Pieces end only where blocks do.
    """

    def __init__(self, output: Path, fps: float, note: dict[str, object], resume: bool) -> None:
        """`note` says what is drawn; a run with another one is not resumed.

        Raises:
            UserError: an earlier run's pieces are there and `resume` is not asked for, or they are of something else.
        """
        self.output, self._fps = output, fps
        self.folder = output.with_name(f".{output.name}.pieces")
        self._lengths: list[int] = []
        self._writer: VideoWriter | None = None
        self._here = 0  # frames so far, of finished pieces or drawn
        self._begin = 0  # first frame of the piece that is drawn
        note = {"format": FORMAT, "fps": fps, **note}
        if self._note_path.is_file():
            self._open(note, resume)
        self._known = sum(self._lengths)
        self._note = note

    @property
    def _note_path(self) -> Path:
        return self.folder / "pieces.json"

    def _open(self, note: dict[str, object], resume: bool) -> None:
        try:
            found = json.loads(self._note_path.read_text(encoding="utf-8"))
            lengths, there = [int(n) for n in found.pop("lengths")], found
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The pieces in {self.folder} are damaged ({one_line(error)}); remove that folder."
            ) from None
        if not resume:
            seconds = sum(lengths) / self._fps
            raise UserError(
                f"An earlier run of {self.output} was interrupted after {seconds:.0f} s of video; go on with --resume,"
                f" or remove {self.folder}."
            )
        other = [key for key in note if there.get(key) != json.loads(json.dumps(note[key]))]
        if other:
            raise UserError(
                f"The interrupted run of {self.output} had another {', '.join(other)}; repeat it as it was, or remove"
                f" {self.folder}."
            )
        if any(not self._piece(i).is_file() for i in range(len(lengths))):
            raise UserError(f"The pieces in {self.folder} are not complete; remove that folder.")
        self._lengths = lengths

    def _piece(self, index: int) -> Path:
        return self.folder / f"{index:06d}.mp4"

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.abandon()
        if kind is None or not self._lengths:
            shutil.rmtree(self.folder, ignore_errors=True)

    def has(self, frames: int) -> bool:
        """Whether the next `frames` frames lie in finished pieces."""
        return self._here + frames <= self._known

    def skip(self, frames: int) -> None:
        """Passes over frames that lie in finished pieces."""
        self._here += frames
        self._begin = self._here

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """The next frame.

        Raises:
            UserError: the place cannot be written.
        """
        if self._writer is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain_os_error(error, self.output) from error
            self._writer = VideoWriter(self._piece(len(self._lengths)), self._fps)
        self._writer.add(frame)
        self._here += 1

    def end_block(self) -> None:
        """Finishes the piece if it is long enough."""
        if self._here - self._begin >= PIECE_SECONDS * self._fps:
            self._finish()

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        self._lengths.append(self._here - self._begin)
        self._begin = self._here
        with replacing(self._note_path) as partial:
            partial.write_text(json.dumps({**self._note, "lengths": self._lengths}), encoding="utf-8")

    def join(self, sound: Iterable[Float32[np.ndarray, " S"]] | None) -> None:
        """Makes the output of all pieces and the sound.

        Raises:
            UserError: no frame was added, or the output cannot be written.
        """
        self._finish()
        if not self._lengths:
            raise UserError(f"There is no frame to write to {self.output}.")
        join_videos([self._piece(i) for i in range(len(self._lengths))], self.output, self._fps, sound)
