"""The speech stage and model: from sound to log-mel features, and from those to this person's mouth and manner."""

from __future__ import annotations

from pathlib import Path

from avatar.conventions import SAMPLE_RATE
from avatar.progress import SILENT, Reporter
from avatar.speech.controls import EMOTIONS, SpeechControls, Style, parse_emotion, style_of
from avatar.speech.encoder import SpeechEncoder, encoded_sound, load_encoder
from avatar.speech.features import MINIMUM_SECONDS, log_mel
from avatar.speech.files import load_speech, save_speech
from avatar.speech.model import SpeechModel, SpeechModelConfig
from avatar.speech.motion import following_torso, predict_mouth, speech_to_motion
from avatar.speech.offset import IGNORED_SECONDS, estimate_offset
from avatar.speech.person import PersonStatistics, person_statistics
from avatar.speech.scores import heard_frames
from avatar.speech.stream import SpeechStream
from avatar.speech.train import SpeechTrainConfig, train_speech
from avatar.types import Capture, SpeechFeatures, Track

__all__ = [
    "EMOTIONS",
    "PersonStatistics",
    "SpeechControls",
    "SpeechEncoder",
    "SpeechFeatures",
    "SpeechModel",
    "SpeechModelConfig",
    "SpeechStream",
    "SpeechTrainConfig",
    "Style",
    "encoded_sound",
    "following_torso",
    "heard_frames",
    "load_encoder",
    "load_speech",
    "parse_emotion",
    "person_statistics",
    "predict_mouth",
    "save_speech",
    "speech_features",
    "speech_to_motion",
    "style_of",
    "train_speech",
]


def speech_features(capture: Capture, track: Track, path: Path, reporter: Reporter = SILENT) -> SpeechFeatures | None:
    """The clip's sound as log-mel on the picture's clock, written to `path`; None, and said, without usable sound.

    How late the sound is against the picture is estimated and, where the estimate is sure, taken off the times.

    Raises:
        UserError: the sound holds values that are not numbers, or `path` cannot be written.
    """
    audio = capture.audio
    if audio is None:
        reporter.say("The clip has no sound: the speech stage is skipped, and speech cannot drive this avatar.")
        return None
    if len(audio) < MINIMUM_SECONDS * SAMPLE_RATE:
        reporter.say("The clip's sound is too short for speech: the speech stage is skipped.")
        return None
    if not audio.any():
        reporter.say("The clip's sound is silent: the speech stage is skipped, and speech cannot drive this avatar.")
        return None
    columns, times = log_mel(audio)
    estimate = estimate_offset(columns, times, track)
    offset = estimate.seconds if estimate.confident and abs(estimate.seconds) > IGNORED_SECONDS else 0.0
    if offset:
        late = "late" if offset > 0 else "early"
        reporter.say(
            f"The sound is {abs(offset) * 1000:.0f} ms {late} against the picture; this is taken into account."
        )
    features = SpeechFeatures(columns, times - offset, offset)
    save_speech(features, path)
    return features
