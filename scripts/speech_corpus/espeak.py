"""espeak-ng as a speaker of a hundred languages, through its library's own phoneme events (speak_lib.h, ctypes)."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np

from avatar.errors import UserError

from .phonemes import Phone, Utterance


class _Event(ctypes.Structure):
    # espeak_EVENT of speak_lib.h
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8),
    ]  # fmt: skip


_LIST_END, _SENTENCE, _PHONEME = 0, 2, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _IPA_NAMES, _UTF8 = 2, 1, 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, initialised once per process (a second time hangs it).

    Args:
        ipa: name phones in the international alphabet; otherwise by espeak's own mnemonics.
    """

    def __init__(self, ipa: bool = True) -> None:
        try:
            self._library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        except OSError as error:
            raise UserError("espeak-ng is missing; on Debian or Ubuntu install the package espeak-ng.") from error
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | (_IPA_NAMES if ipa else 0))
        if self.rate <= 0:
            raise UserError("espeak-ng finds no voice data; install the package espeak-ng-data again.")
        self._pcm, self._events = bytearray(), []
        self.sentences: list[float] = []
        """Where the sentences of the last utterance start, seconds."""
        self._callback = _CALLBACK(self._on_audio)  # the library keeps only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _on_audio(self, wave, count, events) -> int:
        if wave and count > 0:
            self._pcm.extend(ctypes.string_at(wave, count * 2))
        i = 0
        while events[i].type != _LIST_END:
            if events[i].type == _PHONEME:
                name = bytes(events[i].name).split(b"\0")[0].decode(errors="replace")
                self._events.append((events[i].sample / self.rate, name))
            if events[i].type == _SENTENCE:
                self.sentences.append(events[i].sample / self.rate)
            i += 1
        return 0

    def speak(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int = 50) -> Utterance:
        """`text` in `voice` (a language, with +VARIANT for another throat); pitch and range 0..99.

        Raises:
            UserError: there is no such voice.
        """
        self._pcm.clear()
        self._events.clear()
        self.sentences.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}.")
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.frombuffer(bytes(self._pcm), np.int16).astype(np.float32) / 32768
        ends = [t for t, _ in self._events[1:]] + [len(samples) / self.rate]
        phones = [Phone(n, t, max(e, t)) for (t, n), e in zip(self._events, ends, strict=True)]
        return Utterance(samples, self.rate, tuple(phones))
