"""Measures speech models on clips and voices: the tables of docs/speech.md.

    apt-get install espeak-ng flite
    python scripts/measure_speech.py RUN_FOLDER [RUN_FOLDER ...]

Each run folder (of `avatar fit`) holds a track and speech features. A model is trained on each as `fit` does, scored on
its held-out end beside the plainest ways to tell a mouth from sound, and then driven by the other clips' sound and by
synthetic voices whose phoneme times are known.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.ndimage import gaussian_filter1d

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speech_corpus import flite
from speech_corpus.espeak import Espeak
from speech_corpus.phonemes import CLOSED, Utterance, segments

from avatar.conventions import HELD_OUT_FRACTION, MOUTH_INDICES, SAMPLE_RATE
from avatar.speech import SpeechModel, load_speech, train_speech
from avatar.speech.features import log_mel
from avatar.speech.hearing import amplified
from avatar.speech.model import TOKEN_RATE, token_times
from avatar.speech.offset import mouth_signals
from avatar.speech.scores import correlation, predict_at, whole_mouth
from avatar.speech.targets import ACTIVE_SPREAD, JAW, closing
from avatar.track import load_track
from avatar.types import SpeechFeatures, Track

TEXTS = {
    "en-us": "Please bring my blue paper bag. Many people are walking slowly along the river, and a bumblebee may "
    "become a problem. The mayor publicly promised better public buses.",
    "de": "Guten Morgen, meine Damen und Herren. Heute sprechen wir über das Wetter, die Menschen und eine wunderbare "
    "Idee. Bitte bleiben Sie beim Bahnhof.",
    "cmn-latn-pinyin": "ni3 hao3 wo3 men5 jin1 tian1 qu4 shang4 hai3 kan4 peng2 you5 ma1 ma5 mai3 le5 bao1 zi5 he2 pi2 "
    "jiu3 ming2 bai5 bu4 ping2",
}
SPEECH_BANDS = slice(8, 44)
"""Mel bands of about 300 to 3400 Hz."""
LARGEST_LEAD = 8
"""Tokens by which a mouth may open before it sounds."""
MARGIN_SECONDS = 0.3
"""Around a part, not learned from either."""
QUIETER_DB = (10.0, 15.0, 20.0)
"""Levels at which the same sound is heard once more."""
TILTS_DB = (-12.0, 12.0)
"""Microphones through which the same sound is heard once more: the highest band raised so much, the lowest lowered."""
REACH_SECONDS = 0.04
"""How far outside a p, b or m its closure is looked for."""


@dataclass
class Settings:
    """What is measured."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    steps: int | None = None
    """Of the transformer (default: as a fit)."""
    parts: int = 0
    """Also score the whole clip in so many parts, each told by a model of the others (8 takes 8 times as long)."""


def main(settings: Settings) -> None:
    """Prints one block of Markdown per run folder."""
    clips = {run.name: (load_speech(run / "speech.safetensors"), load_track(run / "track.safetensors"))
             for run in settings.runs}  # fmt: skip
    voices = _voices()
    for name, (features, track) in clips.items():
        if settings.parts:
            _print_parts(name, features, track, settings)
        model = _held_out(name, features, track, settings)
        print("\n| quieter by | " + " | ".join(f"{db:.0f} dB" for db in QUIETER_DB) + " |\n|---|---|---|---|")
        for other, (sound, _) in clips.items():
            print(_level_rows(other, model, sound.log_mel))
        print("\n| highest bands raised by | " + " | ".join(f"{db:.0f} dB" for db in TILTS_DB) + " |\n|---|---|---|")
        for other in clips:
            print(_microphone_rows(other, model, *clips[other]))
        lead, own = _lead(features, track)
        print(f"\nown jaw with its sound's envelope: {own:.2f}, {1000 * lead / TOKEN_RATE:.0f} ms before it\n")
        print("| voice | envelope | spread of own | p, b, m closed | any moment |\n|---|---|---|---|---|")
        limit, spread = closed_below(track), float(track.coefficients[track.valid, MOUTH_INDICES[JAW]].std())
        for other, (sound, _) in clips.items():
            if other != name:
                print(_voice_row(other, model, sound.log_mel, lead, spread))
                print(_person_row(other, model, *clips[other]))
        for voice, (utterance, arpabet) in voices.items():
            samples = _at_speech_level(utterance)
            print(_voice_row(voice, model, log_mel(samples)[0], lead, spread, limit, segments(utterance, arpabet)))


def _held_out(name: str, features: SpeechFeatures, track: Track, settings: Settings) -> SpeechModel:
    from avatar.speech import SpeechTrainConfig

    start, cpu = float(track.times[-1]) * (1 - HELD_OUT_FRACTION), time.process_time()
    model, scores = train_speech(features, track, SpeechTrainConfig(steps=settings.steps), held_out_start=start)
    print(f"\n## {name}: {scores['frames']} held-out frames, {scores['active']} active coefficients,"
          f" {time.process_time() - cpu:.0f} s of processor time\n")  # fmt: skip
    print("| | jawOpen | mean of active | spread of jawOpen | mean error |\n|---|---|---|---|---|")
    rows: dict[str, dict[str, Any]] = {"model": scores, **{k: scores[k] for k in ("energy", "nearest", "mean_face")}}
    for row, s in rows.items():
        numbers = (s["jaw_correlation"], s["mouth_correlation"], s["lip_spread_ratio"], s["mae"])
        print(f"| {row} | " + " | ".join(f"{v:.3f}" for v in numbers) + " |")
    print(f"| left-out parts | {scores['validation_jaw']:.3f} | {scores['validation_mouth']:.3f} | | |")
    return model


def _print_parts(name: str, features: SpeechFeatures, track: Track, settings: Settings) -> None:
    """The clip part by part, and the lips that shut in it."""
    from avatar.speech import SpeechTrainConfig

    frames = np.arange(len(track.times)) * settings.parts // len(track.times)
    said, rows = np.zeros((len(track.times), len(MOUTH_INDICES))), []
    truth = track.coefficients[:, list(MOUTH_INDICES)].astype(np.float64)
    inside = track.valid & (track.times >= features.times[0]) & (track.times <= features.times[-1])
    for part in range(settings.parts):
        here = frames == part
        times = track.times[here]
        near = (track.times > times[0] - MARGIN_SECONDS) & (track.times < times[-1] + MARGIN_SECONDS)
        rest = replace(track, valid=track.valid & ~near)
        model, _ = train_speech(features, rest, SpeechTrainConfig(steps=settings.steps))
        said[here] = predict_at(model, features, times)
        asked = here & inside
        active = (truth[rest.valid].std(axis=0) > ACTIVE_SPREAD) & (truth[asked].std(axis=0) > ACTIVE_SPREAD / 2)
        r = correlation(*(torch.from_numpy(v[asked]) for v in (said, truth))).numpy()
        rows.append((r[JAW], r[active].mean()))
    jaw, mouth = np.mean(rows, axis=0)
    print(f"\n{name}, {settings.parts} parts: jawOpen {jaw:.3f}, mean {mouth:.3f}; lips shut" + _shut(said, track))


def _shut(said: np.ndarray, track: Track) -> str:
    """Of the moments at which the lips shut: how often those of `said` (a row per frame) do, and at any moment."""
    times, shut, jaw = _closings(track, said[:, JAW])
    limit, ends = closed_below(track), np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    begin, end = times[ends[::2]], times[ends[1::2] - 1]
    found = np.mean([_dips(jaw, times, a, b, limit) for a, b in zip(begin, end, strict=True)])
    length = float(np.median(end - begin))
    anywhere = np.mean([_dips(jaw, times, a, a + length, limit) for a in times[times < times[-1] - length]])
    sure = _told_apart(track, said[:, JAW])
    return f" {found:.2f} of {len(begin)}, at any moment {anywhere:.2f}, told from open lips {sure:.3f}"


def _closings(track: Track, jaw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times of tokens over the clip, where the lips shut, and `jaw` (per frame) there."""
    times = np.arange(track.times[0], track.times[-1], 1 / TOKEN_RATE)
    return times, closing(times, track), np.interp(times, track.times, jaw)


def _told_apart(track: Track, jaw: np.ndarray) -> float:
    """How often a moment of shutting lips has a lower `jaw` than one of lips not among the least open third."""
    times, shut, jaw = _closings(track, jaw)
    opening = np.interp(times, track.times, mouth_signals(track)[:, 0])
    return float((jaw[shut][:, None] < jaw[~shut & (opening > np.percentile(opening, 35))]).mean())


def _person_row(name: str, model: SpeechModel, features: SpeechFeatures, track: Track) -> str:
    """What another person's mouth really did while the sound was spoken, and what this one's does."""
    said = predict_at(model, features, track.times)
    r = _with_own_jaw(said, track)
    sure = _told_apart(track, said[:, JAW])
    return f"| {name}: with its own jaw {r:.2f}; its shut lips told from open ones {sure:.2f} | | | | |"


def _level_rows(name: str, model: SpeechModel, mel: np.ndarray) -> str:
    """Spread of the jaw over that at full level, and correlation with it, where the same sound is quieter."""
    rows = []
    for kind, speaker in (("followed", model), ("as it comes", _without(model, "level"))):
        loud = whole_mouth(speaker, mel)[:, JAW]
        quiet = [whole_mouth(speaker, amplified(mel, -db))[:, JAW] for db in QUIETER_DB]
        numbers = (f"{q.std() / loud.std():.2f}, {np.corrcoef(q, loud)[0, 1]:.2f}" for q in quiet)
        rows.append(f"| {name}, level {kind} | " + " | ".join(numbers) + " |")
    return "\n".join(rows)


def _without(model: SpeechModel, known: str) -> SpeechModel:
    """The same model that does not know its person's `known` (level or spectrum_tokens), and so does not follow it."""
    out = SpeechModel.from_config(model.config_dict())
    out.load_state_dict(model.state_dict() | {known: torch.zeros(())})
    return out


def _microphone_rows(name: str, model: SpeechModel, features: SpeechFeatures, track: Track) -> str:
    """Correlation of the jaw with that of the speaker, where the same sound comes through another microphone."""
    rows, slope = [], np.linspace(-1.0, 1.0, features.log_mel.shape[1])
    for kind, speaker in (("followed", model), ("as it comes", _without(model, "spectrum_tokens"))):
        heard = (replace(features, log_mel=amplified(features.log_mel, db * slope)) for db in TILTS_DB)
        numbers = (f"{_with_own_jaw(predict_at(speaker, h, track.times), track):.2f}" for h in heard)
        rows.append(f"| {name}, colour {kind} | " + " | ".join(numbers) + " |")
    return "\n".join(rows)


def _with_own_jaw(said: np.ndarray, track: Track) -> float:
    return float(np.corrcoef(said[track.valid, JAW], track.coefficients[track.valid, MOUTH_INDICES[JAW]])[0, 1])


def _envelope(mel: np.ndarray) -> np.ndarray:
    """Syllables of a log-mel, per token: amplitude of the speech bands, smoothed to about 4 Hz."""
    power = np.exp(mel[:, SPEECH_BANDS]).sum(axis=1)
    return gaussian_filter1d(np.sqrt(power[: len(power) // 2 * 2].reshape(-1, 2).mean(axis=1)), 2.0)


def _lead(features: SpeechFeatures, track: Track) -> tuple[int, float]:
    """By how many tokens the person's jaw goes before the envelope of their voice, and its correlation there."""
    envelope = _envelope(features.log_mel)
    times = token_times(features.times)[: len(envelope)]
    inside = (times >= track.times[0]) & (times <= track.times[-1])
    jaw = np.interp(times, track.times, track.coefficients[:, MOUTH_INDICES[JAW]])[inside]
    found = [_correlation(envelope[inside], jaw, k) for k in range(LARGEST_LEAD)]
    return int(np.argmax(found)), max(found)


def _correlation(envelope: np.ndarray, jaw: np.ndarray, lead: int) -> float:
    n = min(len(envelope), len(jaw)) - lead
    return float(np.corrcoef(envelope[lead : lead + n], jaw[:n])[0, 1])


def closed_below(track: Track) -> float:
    """jawOpen below which the person's lips are closed: nine tenths of the moments at which the opening between the
    lips dips into its lowest fifth lie there."""
    opening, jaw = mouth_signals(track)[:, 0], track.coefficients[:, MOUTH_INDICES[JAW]]
    dips = np.flatnonzero((opening[1:-1] <= opening[:-2]) & (opening[1:-1] <= opening[2:])) + 1
    dips = dips[opening[dips] < np.percentile(opening, 20)]
    return float(np.percentile(jaw[dips], 90))


def _voices() -> dict[str, tuple[Utterance, bool]]:
    espeak = Espeak()
    out = {f"espeak-ng {v}": (espeak.speak(t, v, 150, 50, 50), False) for v, t in TEXTS.items()}
    for voice, pitch in (("slt", 180.0), ("rms", 105.0)):
        out[f"flite {voice}"] = (flite.speak(TEXTS["en-us"], voice, 1.1, pitch), True)
    return out


def _at_speech_level(utterance: Utterance) -> np.ndarray:
    import soxr

    samples = soxr.resample(utterance.samples, utterance.rate, SAMPLE_RATE)
    return (samples * 0.06 / np.sqrt(np.mean(samples**2))).astype(np.float32)


def _voice_row(
    voice: str, model: SpeechModel, mel: np.ndarray, lead: int, spread: float, limit: float = 0.0,
    parts: list[tuple[int, float, float]] | None = None,
) -> str:  # fmt: skip
    jaw = whole_mouth(model, mel)[:, JAW]
    closed, anywhere = "", ""
    if parts is not None:
        times = np.arange(len(jaw)) / TOKEN_RATE
        asked = [(a, b) for c, a, b in parts if c in CLOSED]
        closed = f"{np.mean([_dips(jaw, times, a, b, limit) for a, b in asked]):.2f} of {len(asked)}"
        length = float(np.mean([b - a for a, b in asked]))
        moments = np.linspace(0.3, times[-1] - 0.3, 200)
        anywhere = f"{np.mean([_dips(jaw, times, m, m + length, limit) for m in moments]):.2f}"
    numbers = f"{_correlation(_envelope(mel), jaw, lead):.2f} | {jaw.std() / spread:.2f}"
    return f"| {voice} | {numbers} | {closed} | {anywhere} |"


def _dips(jaw: np.ndarray, times: np.ndarray, start: float, end: float, limit: float) -> bool:
    return bool(jaw[(times >= start - REACH_SECONDS) & (times <= end + REACH_SECONDS)].min() <= limit)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Settings, description=__doc__))
