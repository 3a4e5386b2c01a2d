"""Streaming: any pieces give the same motion, in time, in constant memory; and what users may change about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from speaking import said

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_INDICES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech import (
    EMOTIONS,
    PersonStatistics,
    SpeechControls,
    SpeechModel,
    SpeechModelConfig,
    SpeechStream,
    parse_emotion,
    person_statistics,
    predict_mouth,
    style_of,
)
from avatar.speech.manner import LOOKS, eyes_against
from avatar.speech.motion import joined
from avatar.speech.person import FACE_INDICES, offsets_from_poses, poses_from_offsets
from avatar.types import Motion

MOUTH = list(MOUTH_INDICES)
JAW = BLENDSHAPE_INDEX["jawOpen"]
BLINK = BLENDSHAPE_INDEX["eyeBlinkLeft"]


@pytest.fixture(scope="module")
def person(talker) -> PersonStatistics:
    return person_statistics(talker(seconds=24.0)[1])


@pytest.fixture(scope="module")
def model(person: PersonStatistics, loudness_memory) -> SpeechModel:
    """Random layers over a mouth that follows loudness: every path of the network matters."""
    torch.manual_seed(0)
    model = SpeechModel(SpeechModelConfig(width=16, heads=2, layers=2, memory_size=1)).eval().requires_grad_(False)
    loudness_memory(model)
    model.head.weight.normal_(0, 0.2)
    model.target_std.copy_(torch.from_numpy(person.std[MOUTH]))
    for name, values in (
        ("target_mean", person.mean),
        ("rest", person.rest),
        ("low", person.low),
        ("high", person.high),
    ):
        getattr(model, name).copy_(torch.from_numpy(values[MOUTH]))
    return model


def sound(seconds: float) -> np.ndarray:
    """Syllables with a pause in every third second."""
    random = np.random.default_rng(0)
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * random.standard_normal(len(t)) * np.sin(9 * t) ** 2 * (t % 3 < 2)).astype(np.float32)


def pushed(stream: SpeechStream, samples: np.ndarray, size: int) -> Motion:
    parts = [stream.push(samples[i : i + size]) for i in range(0, len(samples), size)]
    return joined([*parts, stream.finish()])


@pytest.mark.parametrize("size", [93, 160, 1000, 4801, 100_000])
@pytest.mark.parametrize("fps", [25.0, 30000 / 1001])
def test_the_pieces_do_not_matter(model: SpeechModel, person: PersonStatistics, size: int, fps: float) -> None:
    controls = SpeechControls(emotion={"happy": 0.5}, seed=3)
    samples = sound(3.7)
    whole = said(model, person, samples, fps, controls)
    parts = pushed(SpeechStream(model, person, fps, controls), samples, size)
    assert len(parts.times) == int(np.ceil(3.7 * fps - 1e-6))
    np.testing.assert_array_equal(parts.times, whole.times)
    np.testing.assert_allclose(parts.coefficients, whole.coefficients, atol=1e-4)  # worst seen 3e-7
    np.testing.assert_allclose(parts.camera_from_head, whole.camera_from_head, atol=1e-9)
    np.testing.assert_allclose(parts.camera_from_torso, whole.camera_from_torso, atol=1e-9)


def test_the_mouth_is_the_offline_mouth(model: SpeechModel, person: PersonStatistics) -> None:
    samples = sound(4.0)
    motion = said(model, person, samples, 25.0)
    # A stream's tokens count from 0, the features' from 1 ms before: windows are centred there.
    offline = predict_mouth(model, person, samples, motion.times - 0.001)
    np.testing.assert_allclose(motion.coefficients[:, MOUTH], offline, atol=1e-4)
    assert offline.std(axis=0).max() > 0.02


def test_latency_is_what_is_promised(model: SpeechModel, person: PersonStatistics) -> None:
    stream, samples, worst, first = SpeechStream(model, person, 30.0), sound(3.0), 0.0, None
    for i in range(0, len(samples), 80):
        motion = stream.push(samples[i : i + 80])
        now = (i + 80) / SAMPLE_RATE
        if len(motion.times):
            first = now if first is None else first
            worst = max(worst, now - motion.times[0])
    assert worst <= stream.latency_seconds + 0.005 <= 0.165
    assert first is not None and first <= 0.25


def test_memory_does_not_grow(model: SpeechModel, person: PersonStatistics) -> None:
    stream, samples = SpeechStream(model, person, 10.0), sound(6.0)

    def kept() -> int:
        held = (stream._mouth, stream._said, stream._rows)
        return sum(len(r._items) for r in held) + len(stream._blinks._times)

    stream.push(samples)
    before = kept()
    for _ in range(5):
        stream.push(samples)
    assert kept() <= before + 8
    assert len(stream._mouth) == pytest.approx(36 * 50, abs=20)  # all of it was heard


def test_long_sound_does_not_drift(model: SpeechModel, person: PersonStatistics) -> None:
    """The same second of sound, said at the start and after a minute, moves the same mouth at the same time."""
    second = np.concatenate([np.zeros(16000, np.float32), sound(1.0), np.zeros(16000, np.float32)])
    stream = SpeechStream(model, person, 25.0)
    early = stream.push(second)
    for _ in range(6):
        stream.push(np.tile(sound(1.0), 10))
    start = stream._frames
    stream.push(np.zeros(5 * SAMPLE_RATE, np.float32))
    said = joined([stream.push(second), stream.finish()])
    a = early.coefficients[25:55, JAW]
    at = round(68.0 * 25) - round(said.times[0] * 25)
    b = said.coefficients[at + 25 : at + 55, JAW]
    assert said.times[-1] == pytest.approx(71.0 - 0.04, abs=1e-6) and start > 1500
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_bad_pieces_are_refused(model: SpeechModel, person: PersonStatistics) -> None:
    stream = SpeechStream(model, person, 25.0)
    for samples, words in (
        (np.full(100, np.nan, np.float32), "not numbers"),
        (np.zeros(100, np.int16), "floating point"),
        (np.zeros((100, 2), np.float32), "one channel"),
        (np.full(8000, 1e300), "not numbers"),  # in single precision
        (1000 * sound(1.0), "divide by full scale"),
    ):
        with pytest.raises(UserError, match=words):
            stream.push(samples)
    assert len(stream.push(np.zeros(0, np.float32)).times) == 0
    stream.finish()
    with pytest.raises(UserError, match="finished"):
        stream.push(sound(1.0))
    with pytest.raises(UserError, match="frames per second"):
        SpeechStream(model, person, 0.0)


def test_listening_rests_the_mouth(model: SpeechModel, person: PersonStatistics) -> None:
    stream = SpeechStream(model, person, 25.0)
    stream.listening = True
    motion = joined([stream.push(sound(4.0)), stream.finish()])
    np.testing.assert_allclose(motion.coefficients[:, MOUTH], np.tile(person.rest[MOUTH], (100, 1)), atol=1e-6)
    assert motion.coefficients[:, FACE_INDICES].std(axis=0).max() > 0  # but alive


def test_a_listener_goes_to_rest_and_back_without_a_jump(model: SpeechModel, person: PersonStatistics) -> None:
    samples, second = sound(6.0), SAMPLE_RATE
    plain = said(model, person, samples, 50.0).coefficients[:, MOUTH]

    def toggled(size: int) -> np.ndarray:
        stream, parts = SpeechStream(model, person, 50.0), []
        for begin, end, listening in ((0, 1.2, False), (1.2, 4.0, True), (4.0, 6.0, False)):
            stream.listening = listening
            part = samples[int(begin * second) : int(end * second)]
            parts += [stream.push(part[i : i + size]) for i in range(0, len(part), size)]
        return joined([*parts, stream.finish()]).coefficients[:, MOUTH]

    mouth, rest = toggled(second), person.rest[MOUTH]
    np.testing.assert_allclose(mouth[:60], plain[:60], atol=1e-4)  # what was heard before is still said
    np.testing.assert_allclose(mouth[66:199], np.tile(rest, (133, 1)), atol=1e-6)
    np.testing.assert_allclose(mouth[206:], plain[206:], atol=1e-4)
    fifth = np.abs(plain - rest).max(axis=0) / 5  # a tenth of a second has five frames
    assert (np.abs(np.diff(mouth, axis=0)).max(axis=0) <= np.abs(np.diff(plain, axis=0)).max(axis=0) + fifth).all()
    np.testing.assert_allclose(toggled(333), mouth, atol=1e-4)


def test_samples_beyond_full_scale_are_clipped(model: SpeechModel, person: PersonStatistics) -> None:
    loud = 4 * sound(2.0)
    streams = [SpeechStream(model, person, 25.0) for _ in range(2)]
    one, other = (joined([s.push(x), s.finish()]) for s, x in zip(streams, (loud, loud.clip(-1, 1)), strict=True))
    np.testing.assert_array_equal(one.coefficients, other.coefficients)


def test_the_head_is_calmer_in_silence(model: SpeechModel, person: PersonStatistics) -> None:
    loud, quiet = sound(40.0), np.zeros(40 * SAMPLE_RATE, np.float32)
    speaking, silent = (
        offsets_from_poses(said(model, person, s, 25.0).camera_from_head, person.neutral_head)[250:]
        for s in (loud + np.float32(0), quiet)
    )
    assert silent.std(axis=0)[1] < 0.8 * speaking.std(axis=0)[1]
    assert silent.std(axis=0)[1] > 0.1 * speaking.std(axis=0)[1]


# --- controls ---


def test_gain(model: SpeechModel, person: PersonStatistics) -> None:
    one, half = (said(model, person, sound(3.0), 25.0, SpeechControls(gain=g)) for g in (1.0, 0.5))
    rest = person.rest[MOUTH]
    np.testing.assert_allclose(half.coefficients[:, MOUTH] - rest, (one.coefficients[:, MOUTH] - rest) / 2, atol=1e-6)


def test_blinks_can_be_switched_off(model: SpeechModel, person: PersonStatistics) -> None:
    on, off = (said(model, person, sound(20.0), 25.0, SpeechControls(blink=b)) for b in (True, False))
    assert on.coefficients[:, BLINK].max() > 0.5
    assert off.coefficients[:, BLINK].max() < 0.3
    np.testing.assert_array_equal(on.coefficients[:, MOUTH], off.coefficients[:, MOUTH])


def test_gaze(model: SpeechModel, person: PersonStatistics) -> None:
    def looks(gaze: str) -> tuple[np.ndarray, np.ndarray]:
        controls = SpeechControls(gaze=gaze, blink=False)
        motion = said(model, person, sound(20.0), 25.0, controls)
        return motion.coefficients[:, [FACE_INDICES[k] for k in LOOKS]], motion.camera_from_head

    assert looks("fixed")[0].std(axis=0).max() < 1e-6
    camera = SpeechControls(pose="fixed", gaze="camera", blink=False)
    still = said(model, person, sound(20.0), 25.0, camera).coefficients[:, [FACE_INDICES[k] for k in LOOKS]]
    assert still.std(axis=0).max() < 1e-6  # a still head has nothing to turn against
    own = looks("generated")[0]
    assert 0 < np.abs(np.diff(own, axis=0)).max() < 0.2  # the eyes jump, a little


def test_eyes_on_the_camera_turn_against_the_head(person: PersonStatistics) -> None:
    from dataclasses import replace

    from avatar.speech.manner import Manner

    wide = replace(person, low=np.zeros(52, np.float32), high=np.ones(52, np.float32))
    manner = Manner(wide, 0, "camera")
    rows = np.stack([manner.tick(1.0, 0.0) for _ in range(200)])
    out, into = (FACE_INDICES.index(BLENDSHAPE_INDEX[f"eyeLook{a}Left"]) for a in ("Out", "In"))
    right = rows[:, 12 + out] - rows[:, 12 + into]
    # A positive turn about the camera's y axis (down) is to image left, and the left eye's "out" is image right.
    assert np.corrcoef(right, rows[:, 1])[0, 1] > 0.9

    still = Manner(wide, 0, "camera", head_follows=False).tick(1.0, 0.0)[12:-1]
    coefficients = np.zeros((200, 52), np.float32)
    coefficients[:, FACE_INDICES] = still
    turned = eyes_against(coefficients, poses_from_offsets(rows[:, :6], wide.neutral_head), wide)
    looks = [FACE_INDICES[k] for k in LOOKS]
    np.testing.assert_allclose(turned[:, looks], rows[:, 12:-1][:, LOOKS].clip(0, 1), atol=1e-5)


def test_emotion_adds_and_keeps_the_words(model: SpeechModel, person: PersonStatistics) -> None:
    plain, happy = (said(model, person, sound(12.0), 25.0, SpeechControls(emotion=e)) for e in ({}, {"happy": 0.7}))
    cheek = BLENDSHAPE_INDEX["cheekSquintLeft"]
    added = happy.coefficients[:, cheek] - plain.coefficients[:, cheek]
    assert added[50:].mean() > 0.08 and added[0] < 0.02  # it comes softly
    assert np.abs(np.diff(added)).max() < 0.05
    jaw = [m.coefficients[50:, JAW] for m in (plain, happy)]
    assert np.corrcoef(*jaw)[0, 1] > 0.99
    for name in EMOTIONS:
        motion = said(model, person, sound(2.0), 25.0, SpeechControls(emotion={name: 1.0}))
        assert motion.coefficients.min() >= 0 and motion.coefficients.max() <= 1
        assert np.abs(motion.coefficients - plain.coefficients[:50]).max() > 0.1


def test_a_smile_is_seen_in_silence_and_keeps_lips_together(model: SpeechModel, person: PersonStatistics) -> None:
    silence = np.zeros(3 * SAMPLE_RATE, np.float32)
    plain, happy = (said(model, person, silence, 25.0, SpeechControls(emotion=e)) for e in ({}, {"happy": 1.0}))
    added = (happy.coefficients - plain.coefficients)[-1]
    smile, press, jaw = (added[BLENDSHAPE_INDEX[n]] for n in ("mouthSmileLeft", "mouthPressLeft", "jawOpen"))
    assert smile > 0.2 and press > 0.1 and jaw == 0
    surprised = said(model, person, silence, 25.0, SpeechControls(emotion={"surprised": 1.0}))
    assert surprised.coefficients[-1, JAW] - plain.coefficients[-1, JAW] < 0.06  # lips that are shut stay so


def test_style_leaves_eyes_and_what_it_does_not_tell(model: SpeechModel, person: PersonStatistics) -> None:
    other = np.zeros((100, 52), np.float32)
    other[:, JAW] = 0.4 * np.abs(np.sin(np.arange(100)))
    other[:, BLINK] = 0.1 * np.abs(np.sin(np.arange(100)))
    other[:, BLENDSHAPE_INDEX["mouthSmileLeft"]] = 0.9 + 0.05 * np.sin(np.arange(100))
    controls = SpeechControls(style=style_of(other))
    plain, styled = (said(model, person, sound(20.0), 25.0, c).coefficients for c in (SpeechControls(), controls))
    np.testing.assert_array_equal(styled[:, BLINK], plain[:, BLINK])
    untold = BLENDSHAPE_INDEX["mouthPucker"]
    np.testing.assert_allclose(styled[:, untold], plain[:, untold], atol=1e-6)
    assert (styled <= np.maximum(person.high, plain) + 0.1 + 1e-6).all()
    assert styled[:, JAW].std() != pytest.approx(plain[:, JAW].std(), rel=0.05)


def test_style_takes_on_rest_and_range(model: SpeechModel, person: PersonStatistics) -> None:
    random = np.random.default_rng(0)
    other = np.repeat(person.rest[None], 200, axis=0) + 0.1 + person.std * np.sin(np.arange(200))[:, None]
    other[:, JAW] = 0.1 + 0.6 * random.random(200)
    style = style_of(other.clip(0, 1).astype(np.float32))
    plain, styled = (said(model, person, sound(8.0), 25.0, SpeechControls(style=s)) for s in (None, style))
    assert styled.coefficients[:, JAW].std() > 1.3 * plain.coefficients[:, JAW].std()
    assert np.corrcoef(styled.coefficients[:, JAW], plain.coefficients[:, JAW])[0, 1] > 0.95
    smile = BLENDSHAPE_INDEX["mouthSmileLeft"]
    assert styled.coefficients[:, smile].mean() == pytest.approx(plain.coefficients[:, smile].mean() + 0.1, abs=0.05)
    with pytest.raises(UserError, match="at least 10 frames"):
        style_of(other[:5].clip(0, 1).astype(np.float32))


def test_emotions_are_read() -> None:
    assert parse_emotion("happy:0.6, surprised:0.2") == {"happy": 0.6, "surprised": 0.2}
    assert parse_emotion("sad") == {"sad": 1.0}
    assert parse_emotion("") == {}
    with pytest.raises(UserError, match="'happy:much'"):
        parse_emotion("happy:much")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gain": -1.0}, "gain"),
        ({"gain": float("nan")}, "gain"),
        ({"pose": "dancing"}, "dancing"),
        ({"gaze": "away"}, "camera or fixed"),
        ({"emotion": {"hungry": 1.0}}, "happy"),
        ({"emotion": {"happy": 2.0}}, "0 to 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_controls_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        SpeechControls(**settings)
