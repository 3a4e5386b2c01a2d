"""Sentences in many languages from Debian's packages: fortunes, the translations of iso-codes, and made-up pinyin."""

from __future__ import annotations

import gettext
import re
from pathlib import Path

import numpy as np

from avatar.errors import UserError

FORTUNES = Path("/usr/share/games/fortunes")
LOCALES = Path("/usr/share/locale")
_FORTUNE_FILES = {
    "en": ("wisdom", "people", "literature", "science", "love", "work", "education", "news", "computers", "politics"),
    "de": ("de",), "es": ("es",), "it": ("it", "italia", "leggi"), "pl": ("pl",), "ru": ("ru",), "cs": ("cs",),
    "pt": ("brasil",),
}  # fmt: skip
_DOMAINS = ("iso_639-3", "iso_3166-1", "iso_4217", "iso_3166-2")
# Every syllable of Standard Chinese is an initial and a final; combinations that do not occur do no harm here.
_INITIALS = (
    "",
    "b",
    "p",
    "m",
    "f",
    "d",
    "t",
    "n",
    "l",
    "g",
    "k",
    "h",
    "j",
    "q",
    "x",
    "zh",
    "ch",
    "sh",
    "r",
    "z",
    "c",
    "s",
)
_FINALS = ("a", "o", "e", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "ong", "i", "ia", "ie", "iao", "iu", "ian",
           "in", "iang", "ing", "u", "ua", "uo", "ui", "uan", "un", "uang")  # fmt: skip


class Texts:
    """Draws sentences of a language; `draw` of an unknown language raises."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._sentences: dict[str, list[str]] = {}

    def draw(self, language: str) -> str:
        """One sentence of `language` (its ISO 639-1 code), about 20 to 140 characters.

        Raises:
            UserError: no package with text in that language is installed.
        """
        if language == "zh":
            return self._pinyin()
        if language not in self._sentences:
            self._sentences[language] = _fortunes(language) or _translations(language)
        sentences = self._sentences[language]
        if not sentences:
            raise UserError(f"There is no text in {language!r}; install fortunes-{language} or iso-codes.")
        if language in _FORTUNE_FILES:
            return sentences[self._random.integers(len(sentences))]
        names = [sentences[i] for i in self._random.integers(len(sentences), size=self._random.integers(3, 8))]
        return ", ".join(names) + "."

    def _pinyin(self) -> str:
        r = self._random
        syllables = [
            f"{r.choice(_INITIALS)}{r.choice(_FINALS)}{r.integers(1, 5)}" + (" " if r.random() < 0.5 else "")
            for _ in range(r.integers(8, 24))
        ]
        return "".join(syllables)


def _fortunes(language: str) -> list[str]:
    out: list[str] = []
    for name in _FORTUNE_FILES.get(language, ()):
        path = FORTUNES / name
        files = [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path] * path.is_file()
        for file in files:
            if file.suffix in ("", ".fortunes"):
                text = file.read_text(encoding="utf-8", errors="ignore")
                out += re.split(r"(?<=[.!?])\s+|\n%\n|\n\s*\n|\s--\s", text)
    tidy = (re.sub(r"[\s%~_|<>*#=]+", " ", s).strip() for s in out)
    return [s[:140] for s in tidy if len(s) >= 20]


def _translations(language: str) -> list[str]:
    out: set[str] = set()
    for domain in _DOMAINS:
        try:
            found = gettext.translation(domain, str(LOCALES), [language])
        except OSError:
            continue
        catalogue = getattr(found, "_catalog", {})  # the only way to list a catalogue's messages
        out |= {t for s, t in catalogue.items() if isinstance(s, str) and s and t != s and len(t) > 3}
    return sorted(out)
