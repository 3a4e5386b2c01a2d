"""A whole sound said in one go, for tests that look at the result."""

from __future__ import annotations

import numpy as np

from avatar.speech import PersonStatistics, SpeechControls, SpeechModel, SpeechStream, speech_to_motion
from avatar.types import Motion


def said(
    model: SpeechModel,
    person: PersonStatistics,
    samples: np.ndarray,
    fps: float,
    controls: SpeechControls | None = None,
) -> Motion:
    """What a new stream makes of it."""
    return speech_to_motion(SpeechStream(model, person, fps, controls), samples)
