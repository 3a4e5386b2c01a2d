"""Speech from espeak-ng together with the exact time of every phoneme, through the library's own events (ctypes)."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

import numpy as np

from avatar.errors import UserError

TEXT = (
    "Hello, and welcome. I am not a real person. Every hair, every pore, and every word of mine, was made by a "
    "program. Please watch my mouth while I speak. Big, bold vowels. Soft, quiet pauses. Five very fine voices, "
    "and a few whooshing, puckered sounds. My eyes wander, my head turns, and my shoulders sway. "
    "Film yourself like this, and you will soon have an avatar of your own."
)
VOICE, WORDS_PER_MINUTE, PITCH = "en-us", 162, 40


@dataclass(frozen=True)
class Phoneme:
    """One espeak-ng phoneme (its own mnemonic) and when it sounds, seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """Mono speech."""

    samples: np.ndarray
    """(S,) float32, -1..1."""
    rate: int
    phonemes: tuple[Phoneme, ...]
    sentence_starts: tuple[float, ...]
    """Seconds."""


class _Event(ctypes.Structure):
    # espeak_EVENT of speak_lib.h
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8),
    ]  # fmt: skip


_LIST_END, _SENTENCE, _PHONEME = 0, 2, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3


def speak(text: str = TEXT, lead: float = 0.6, tail: float = 0.9) -> Speech:
    """Says `text` with `lead` and `tail` seconds of silence around it."""
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as e:
        raise UserError("espeak-ng is missing; on Debian or Ubuntu install the package espeak-ng") from e
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
    if rate <= 0:
        raise UserError("espeak-ng finds no voice data; reinstall the package espeak-ng-data")
    pcm, events = bytearray(), []

    def on_audio(wave, count, event_list) -> int:
        if wave and count > 0:
            pcm.extend(ctypes.string_at(wave, count * 2))
        i = 0
        while event_list[i].type != _LIST_END:
            e = event_list[i]
            events.append((e.type, e.sample / rate, bytes(e.name)))
            i += 1
        return 0

    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
    callback = signature(on_audio)  # kept alive until the end of this function
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(VOICE.encode()) != 0:
        raise UserError(f"espeak-ng has no voice {VOICE!r}; reinstall the package espeak-ng-data")
    library.espeak_SetParameter(_RATE_PARAMETER, WORDS_PER_MINUTE, 0)
    library.espeak_SetParameter(_PITCH_PARAMETER, PITCH, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    library.espeak_Terminate()
    speech = np.frombuffer(bytes(pcm), np.int16).astype(np.float32) / 32768
    samples = np.concatenate([np.zeros(int(lead * rate)), speech, np.zeros(int(tail * rate))]).astype(np.float32)
    samples *= 0.7 / max(float(np.abs(samples).max()), 1e-6)
    starts = [(t + lead, n.split(b"\0")[0].decode(errors="replace")) for kind, t, n in events if kind == _PHONEME]
    ends = [t for t, _ in starts[1:]] + [lead + len(speech) / rate]
    phonemes = tuple(Phoneme(n, t, max(e, t)) for (t, n), e in zip(starts, ends, strict=True))
    return Speech(samples, rate, phonemes, tuple(t + lead for kind, t, _ in events if kind == _SENTENCE))
