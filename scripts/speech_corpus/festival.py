"""Festival's voices: built from recordings of real people, with the end of every phone; and one voice's recordings.

The Debian package festvox-ru holds what its voice was cut from: a man reading 620 sentences, with phone labels, under a
BSD-like licence. It is the only speech here that no synthesizer made.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from avatar.errors import UserError

from .phonemes import ARPABET, Phone, Utterance

_LETTERS = {"E": "ɛ", "O": "ɔ", "J": "ɲ", "L": "ʎ", "S": "ʃ", "Z": "ʒ", "tS": "tʃ", "dZ": "dʒ", "#": "", "_": ""}
_ITALIAN = _LETTERS | {"ng": "ŋ", "nf": "n"}
_FINNISH = _LETTERS | {"@": "æ", "7": "ø", "&": "ə", "T": "θ", "D": "ð", "N": "ŋ", "##": ""}
_CATALAN = _LETTERS | {"ax": "ə", "rr": "r", "r": "ɾ", "pau": ""}
_CZECH = {
    "c": "ts", "c~": "tʃ", "ch": "x", "d~": "ɟ", "dz~": "dʒ", "h": "ɦ", "n*": "ŋ", "n~": "ɲ", "r~": "rʒ", "r~*": "rʃ",
    "s~": "ʃ", "t~": "c", "z~": "ʒ", "_": "", "#": "",
}  # fmt: skip
_RUSSIAN = {
    "ii": "i", "yy": "ɨ", "uu": "u", "ee": "e", "oo": "o", "aa": "a", "a": "ʌ", "e": "ɛ", "i": "ɪ", "y": "ɨ", "u": "ʊ",
    "ae": "ɪ", "ay": "ə", "ur": "ʊ", "c": "ts", "ch": "tʃ", "sh": "ʃ", "sch": "ɕ", "zh": "ʒ", "h": "x", "hh": "x",
    "pau": "",
}  # fmt: skip
VOICES = {
    "kal_diphone": ("en", "latin1", ARPABET), "ked_diphone": ("en", "latin1", ARPABET),
    "cmu_us_slt_arctic_hts": ("en", "latin1", ARPABET), "lp_diphone": ("it", "latin1", _ITALIAN),
    "pc_diphone": ("it", "latin1", _ITALIAN), "hy_fi_mv_diphone": ("fi", "latin1", _FINNISH),
    "suo_fi_lj_diphone": ("fi", "latin1", _FINNISH), "czech_dita": ("cs", "iso8859-2", _CZECH),
    "czech_krb": ("cs", "iso8859-2", _CZECH), "czech_machac": ("cs", "iso8859-2", _CZECH),
    "czech_ph": ("cs", "iso8859-2", _CZECH), "msu_ru_nsh_clunits": ("ru", "utf-8", _RUSSIAN),
    "upc_ca_ona_hts": ("ca", "latin1", _CATALAN),
}  # fmt: skip
"""Voice -> language, encoding of its text, and its phone set in IPA."""
RECORDED = Path("/usr/share/festival/voices/russian/msu_ru_nsh_clunits")

_SCRIPT = """(voice_{voice})
(Parameter.set 'Duration_Stretch {stretch:.3f})
(set! said (Utterance Text "{text}"))
(utt.synth said)
(utt.save.wave said "{wave}" 'riff)
(utt.save.segs said "{labels}")
"""


def speak(text: str, voice: str, stretch: float) -> Utterance:
    """`text` in one of VOICES, `stretch` times as long; phones come in IPA.

    Raises:
        UserError: festival or the voice is missing, or fails.
    """
    _, encoding, phone_set = VOICES[voice]
    with tempfile.TemporaryDirectory() as folder:
        wave, labels, script = (Path(folder) / name for name in ("speech.wav", "speech.lab", "say.scm"))
        plain = text.replace("\\", " ").replace('"', " ")
        script.write_bytes(
            _SCRIPT.format(voice=voice, stretch=stretch, text=plain, wave=wave, labels=labels).encode(
                encoding, "ignore"
            )
        )
        try:
            subprocess.run(["festival", "-b", str(script)], capture_output=True, check=True, timeout=20)
        except FileNotFoundError as error:
            raise UserError("festival is missing; on Debian or Ubuntu install the package festival.") from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise UserError(f"festival cannot say {text[:30]!r} with {voice}: {error}") from error
        if not (wave.exists() and labels.exists()):
            raise UserError(f"festival has said nothing of {text[:30]!r}; is its voice {voice} installed?")
        return _labelled(wave, labels, phone_set)


def recordings() -> Iterator[Utterance]:
    """The sentences that the Russian voice was cut from; none where its package is missing."""
    for wave in sorted((RECORDED / "wav").glob("*.wav")):
        labels = RECORDED / "lab" / f"{wave.stem}.lab"
        if labels.exists():
            yield _labelled(wave, labels, _RUSSIAN)


def _labelled(wave: Path, labels: Path, phone_set: dict[str, str]) -> Utterance:
    import soundfile

    samples, rate = soundfile.read(str(wave), dtype="float32")
    phones, start = [], 0.0
    for line in labels.read_text(encoding="latin1").splitlines():
        words = line.split()
        if len(words) == 3:  # end, colour, name; the header has fewer
            phones.append(Phone(_ipa(words[2], phone_set), start, float(words[0])))
            start = float(words[0])
    return Utterance(np.asarray(samples, np.float32), int(rate), tuple(phones))


def _ipa(name: str, phone_set: dict[str, str]) -> str:
    """Stress and length are not heard by the classes; a doubled consonant is a soft one in Russian."""
    if name in phone_set:
        return phone_set[name]
    plain = name.rstrip("1:")
    return phone_set.get(plain, plain[:1] if len(set(plain)) == 1 else plain)
