"""The stage on real clips, which are not part of the project: set AVATAR_CAPTURES to their folder."""

import os
from pathlib import Path

import numpy as np
import pytest

from avatar.capture import capture

FOLDER = os.environ.get("AVATAR_CAPTURES")
CLIPS = {
    "presenter_20s.mp4": (500, 512, True), "address_8s.mp4": (200, 512, True), "short_5s.mp4": (122, 512, True),
    "office_60s_256px.mp4": (1499, 256, True), "emotion_1080p.mp4": (76, 512, True),
    "no_audio_16s.mp4": (400, 512, False), "small_face_3s.mpg": (75, 288, True),
}  # fmt: skip


@pytest.mark.skipif(not FOLDER, reason="AVATAR_CAPTURES is not set")
@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_real_clip(name, tmp_path):
    clip = Path(FOLDER or "") / name
    if not clip.exists():
        pytest.skip(f"{clip} is not there")
    count, size, sound = CLIPS[name]
    result = capture(clip, tmp_path / "capture", None)
    assert (len(result.frames), result.size, result.audio is not None) == (count, size, sound)
    np.testing.assert_allclose(np.diff(result.times), 0.04, atol=1e-3)
    frame = result.frames[count // 2]
    assert frame.std() > 20
