"""Speech that arrives in pieces, and the motion that comes out as soon as it is known.

Everything is causal and in constant memory: an hour costs as much per second as the first one, and whatever the size
of the pieces, the same sound gives the same motion.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_INDICES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech.controls import Emotion, SpeechControls, StyleTransfer
from avatar.speech.encoder import EncoderStream, SpeechEncoder
from avatar.speech.features import LogMelStream, finite
from avatar.speech.hearing import Heard, Hearing, TokenCutter
from avatar.speech.manner import Blinks, Manner, cubic
from avatar.speech.model import COLUMNS_PER_TOKEN, SILENCE, TOKEN_RATE, SpeechModel
from avatar.speech.person import EXCERPT_RATE, EYE_COLUMNS, FACE_INDICES, PersonStatistics, poses_from_offsets
from avatar.types import Motion

LARGEST_FPS = 240.0
LARGEST_SAMPLE = 8.0
"""Recordings that are too loud go a little beyond 1; beyond this they were not divided by full scale."""
BLOCK_SECONDS = 4.0
"""Sound that goes through the network at once; longer pushes are cut, so memory does not grow with them."""
_MOUTH = list(MOUTH_INDICES)
_ROUNDING = 1e-6


class SpeechStream:
    """Speech in, motion out.

    >>> stream = avatar.load("someone.avatar").stream(fps=25)     # doctest: +SKIP
    >>> for samples in microphone:                                # doctest: +SKIP
    ...     motion = stream.push(samples)  # a Motion of zero or more frames

    Attributes:
        listening: set it to True while someone else speaks: from the samples pushed next on the mouth comes to rest,
            and the manner is a listener's.
    """

    def __init__(
        self,
        model: SpeechModel,
        person: PersonStatistics,
        fps: float = 25.0,
        controls: SpeechControls | None = None,
        encoder: SpeechEncoder | None = None,
    ) -> None:
        """`encoder`: the one that a model with `encoder_width` learned from.

        Raises:
            UserError: a frame rate out of range.
        """
        if not isinstance(fps, Real) or not 0 < fps <= LARGEST_FPS:
            raise UserError(f"{fps!r} frames per second is out of range; choose more than 0, at most {LARGEST_FPS:g}.")
        self.fps, self.listening = fps, False
        self.controls = controls = controls or SpeechControls()
        self._model, self._person = model, person
        self._mel, self._state = LogMelStream(model.config.n_mels), model.initial_state()
        self._hearing = Hearing(model)
        self._tokens = TokenCutter(model.config.n_mels)
        self._encoder = None if encoder is None else EncoderStream(encoder)
        self._encoded = _Recent()  # per token: what the encoder says of it
        self._heard: list[Heard] = []  # not given to the network yet
        self._manner, self._blinks = (
            Manner(person, controls.seed, controls.gaze, controls.pose == "generated"),
            Blinks(person, controls.seed),
        )
        self._emotion = Emotion(controls.emotion, person, controls.seed)
        self._style = None if controls.style is None else StyleTransfer(controls.style, person)
        self._samples, self._frames, self._dropped = 0, 0, 0
        self._mouth = _Recent()  # per token
        self._said = _Recent()  # per token: speaking, accent
        self._rows = _Recent()  # per tick: everything around the mouth
        self._finished = False

    @property
    def latency_seconds(self) -> float:
        """Longest time from a moment of the sound to the moment its picture is known, computing not counted."""
        return (self._model.config.look_ahead_tokens + 2) / TOKEN_RATE

    @property
    def n_mels(self) -> int:
        """Bands of the log-mel that it hears."""
        return self._model.config.n_mels

    def expect(self, level: float | None) -> None:
        """Tells, before anything is pushed, how loud the speech will be (`hearing.Level`, dB; None is not known): the
        first words then need not be waited for."""
        self._hearing = Hearing(self._model, level)

    def push(self, samples: np.ndarray) -> Motion:
        """The frames that these samples complete, possibly none: `times` go on from the last push's.

        Args:
            samples: (S,) mono at SAMPLE_RATE, floating point in -1..1 (clipped to it); any number of them.

        Raises:
            UserError: not one channel of finite floating point samples, of another scale, or pushed after `finish`.
        """
        samples = self._checked(samples)
        step = int(BLOCK_SECONDS * SAMPLE_RATE)
        frames: list[_Frame] = []
        for start in range(0, len(samples), step):
            block = samples[start : start + step]
            self._samples += len(block)
            if self._encoder is not None:
                self._encoded.extend(self._encoder.push(block))
            self._hear(self._mel.push(block))
            frames += self._complete()
        return self._motion(frames)

    def finish(self) -> Motion:
        """The frames that are left when the sound ends here: silence follows. Nothing can be pushed afterwards."""
        if self._finished:
            return self._motion([])
        if self._encoder is not None:
            self._encoded.extend(self._encoder.finish())
        ahead = self._model.config.look_ahead_tokens + 1
        missing = -len(self._tokens.left) % COLUMNS_PER_TOKEN + ahead * COLUMNS_PER_TOKEN
        self._hear(np.full((missing, self._model.config.n_mels), SILENCE, np.float32), last=True)
        wanted = math.ceil(round(self._samples / SAMPLE_RATE * self.fps, 6))
        frames = self._complete(wanted)
        self._finished = True
        return self._motion(frames)

    def _checked(self, samples: np.ndarray) -> Float32[np.ndarray, " S"]:
        samples = np.asarray(samples)
        if self._finished:
            raise UserError("This stream is finished; start another one for more speech.")
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise UserError(
                f"A stream takes one channel of floating point samples in -1..1, not {samples.dtype} of shape"
                f" {samples.shape}; mix it down and divide by full scale."
            )
        samples = finite(samples)
        largest = np.abs(samples).max(initial=0.0)
        if largest > LARGEST_SAMPLE:
            raise UserError(f"The sound goes up to {largest:g}, and samples are in -1..1; divide by full scale.")
        return samples.clip(-1, 1)

    # --- hearing ---

    def _hear(self, columns: Float32[np.ndarray, "T M"], last: bool = False) -> None:
        for token in self._tokens.cut(columns):
            heard = self._hearing.token(token, self.listening)
            self._heard.append(heard)
            self._said.append((heard.speaking, heard.accent))
        # The network is asked once per frame, not once per token: as soon as it can complete one.
        next_token = math.ceil(self._frames / self.fps * TOKEN_RATE - _ROUNDING)
        missing = next_token + 1 - len(self._mouth) + self._model.config.look_ahead_tokens - self._dropped
        if self._heard and (len(self._heard) >= missing or last):
            self._tell()

    def _tell(self) -> None:
        """The mouth of what was heard."""
        now, self._heard = self._heard, []
        with torch.inference_mode():
            columns = torch.from_numpy(np.concatenate([h.columns for h in now]))
            mouth, self._state = self._model.step(columns[None], self._state, self._encoded_of(len(now)))
        rest = self._model.rest.cpu().numpy()
        mouth = rest + np.array([[h.share] for h in now], np.float32) * (mouth[0].numpy() - rest)
        said = mouth_with_gain(mouth, self._model, self._person, self.controls.gain)
        # The first outputs lie before the beginning of the stream.
        early = min(self._model.config.look_ahead_tokens - self._dropped, len(said))
        self._dropped += early
        for row in said[early:]:
            self._mouth.append(row)

    def _encoded_of(self, count: int) -> Float[Tensor, "1 n W"] | None:
        """What the encoder says of the next `count` tokens that are told; nothing of those before the beginning."""
        if self._encoder is None:
            return None
        first = len(self._mouth) - (self._model.config.look_ahead_tokens - self._dropped)
        none = np.zeros(self._model.config.encoder_width, np.float32)
        rows = [self._encoded[k] if k >= 0 else none for k in range(first, first + count)]
        self._encoded.forget(first + count)
        return torch.from_numpy(np.stack(rows))[None]

    # --- moving ---

    def _complete(self, until: int | None = None) -> list[_Frame]:
        """Frames up to `until`, or all whose mouth is known; the last known mouth is held where the sound ended."""
        frames = []
        while until is None or self._frames < until:
            time = self._frames / self.fps
            if len(self._mouth) == 0 or (until is None and time * TOKEN_RATE > len(self._mouth) - 1 + _ROUNDING):
                break
            frames.append(self._frame(time))
            self._frames += 1
        return frames

    def _frame(self, time: float) -> _Frame:
        at = min(time * TOKEN_RATE, len(self._mouth) - 1)
        k = int(at + _ROUNDING)
        self._mouth.forget(k)
        share = at - k
        mouth = self._mouth[k]
        if share > _ROUNDING:
            mouth = (1 - share) * mouth + share * self._mouth[k + 1]
        body = self._body(time)
        face = body[12:-1].clip(self._person.low[FACE_INDICES], self._person.high[FACE_INDICES])
        if self.controls.blink:
            closed = self._blinks.closure(time, float(body[-1]))
            eyes = face[EYE_COLUMNS]
            face[EYE_COLUMNS] = eyes + closed * (self._person.blink_closed[EYE_COLUMNS] - eyes)
        return _Frame(time, mouth, body[:6], body[6:12], face.clip(0, 1))

    def _body(self, time: float) -> Float[np.ndarray, " F"]:
        """The manner at `time`, between its ticks; tick k is at (k - 1) / EXCERPT_RATE."""
        at = time * EXCERPT_RATE + 1
        first = int(at) - 1
        while len(self._rows) < first + 4:
            self._rows.append(self._tick(len(self._rows)))
        self._rows.forget(first)
        return cubic(np.stack([self._rows[first + i] for i in range(4)]), np.array([at - first]))[0]

    def _tick(self, tick: int) -> Float[np.ndarray, " F"]:
        # What the voice does is known before the mouth is: the look-ahead covers the two ticks that smoothing needs.
        token = min(max(0, math.floor((tick - 1) / EXCERPT_RATE * TOKEN_RATE)), len(self._said) - 1)
        self._said.forget(token)
        return self._manner.tick(*self._said[token])

    def _motion(self, frames: list[_Frame]) -> Motion:
        n = len(frames)
        if n == 0:
            return Motion(np.zeros(0), np.zeros((0, len(BLENDSHAPE_INDEX)), np.float32), *np.zeros((2, 0, 4, 4)))
        times = np.array([f.time for f in frames], np.float64)
        coefficients = np.zeros((n, len(BLENDSHAPE_INDEX)), np.float32)
        head, torso = np.zeros((n, 6)), np.zeros((n, 6))
        coefficients[:, FACE_INDICES] = np.stack([f.face for f in frames])
        coefficients[:, _MOUTH] = np.stack([f.mouth for f in frames])
        if self.controls.pose == "generated":
            head, torso = np.stack([f.head for f in frames]), np.stack([f.torso for f in frames])
        if self._style is not None:
            coefficients = self._style.apply(coefficients)
        return Motion(
            times,
            self._emotion.add(coefficients, times),
            poses_from_offsets(head, self._person.neutral_head),
            poses_from_offsets(torso, self._person.neutral_torso),
        )


class _Frame:
    """Everything of one moment."""

    def __init__(self, time: float, mouth: np.ndarray, head: np.ndarray, torso: np.ndarray, face: np.ndarray) -> None:
        self.time, self.mouth, self.head, self.torso, self.face = time, mouth, head, torso, face


class _Recent:
    """A growing list of which only the end is kept; `len` and indices count from its beginning."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._first = 0

    def __len__(self) -> int:
        return self._first + len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index - self._first]

    def append(self, item: Any) -> None:
        self._items.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        self._items.extend(items)

    def forget(self, before: int) -> None:
        """Drops what lies before an index."""
        while self._first < before and len(self._items) > 1:
            self._items.popleft()
            self._first += 1


def mouth_with_gain(
    mouth: Float32[np.ndarray, "N D"], model: SpeechModel, person: PersonStatistics, gain: float
) -> Float32[np.ndarray, "N D"]:
    """The mouth moved from rest by `gain`, within what is plausible for the person (further, for a larger gain)."""
    rest = model.rest.cpu().numpy()
    low, high = (np.clip(rest + max(gain, 1.0) * (s[_MOUTH] - rest), 0, 1) for s in (person.low, person.high))
    moved = rest + gain * (mouth - rest)
    return moved.clip(np.minimum(low, rest), np.maximum(high, rest)).astype(np.float32)
