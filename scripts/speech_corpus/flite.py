"""flite's voices: small, but recorded from real speakers (CMU Arctic), with the end of every phone."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from avatar.errors import UserError

from .phonemes import Phone, Utterance

VOICES = ("slt", "rms", "awb", "kal16")


def speak(text: str, voice: str, stretch: float, pitch: float) -> Utterance:
    """`text` in one of VOICES; `stretch` of its duration and `pitch` (Hz, mean) are parameters of its synthesis.

    Raises:
        UserError: flite is missing or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}",
                   "--setf", f"int_f0_target_mean={pitch:.1f}", "-psdur", "-t", text, "-o", str(path)]  # fmt: skip
        try:
            said = subprocess.run(command, capture_output=True, check=True, timeout=60)
        except FileNotFoundError as error:
            raise UserError("flite is missing; on Debian or Ubuntu install the package flite.") from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise UserError(f"flite cannot say {text[:30]!r}: {error}") from error
        import soundfile

        samples, rate = soundfile.read(str(path), dtype="float32")
    phones, start = [], 0.0
    for word in said.stdout.decode(errors="ignore").split():
        name, _, end = word.rpartition(":")
        phones.append(Phone(name, start, float(end)))
        start = float(end)
    return Utterance(np.asarray(samples, np.float32), int(rate), tuple(phones))
