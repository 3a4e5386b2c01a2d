"""The parts of the viewer that need no browser: playback, controls, camera, sizes, drawing, the run watch."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import wave

import numpy as np
import pytest
import torch

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, CODES
from avatar.errors import UserError
from avatar.track import track_to_csv
from avatar.types import Camera, Motion
from avatar.viewer import orbit
from avatar.viewer.controls import EMOTIONS, Controls, ceiling, gaze_coefficients, names_of
from avatar.viewer.door import is_welcome
from avatar.viewer.orbit import View
from avatar.viewer.panels.face import REGIONS, label_of, mirrored, region_of
from avatar.viewer.panels.play import audio_element
from avatar.viewer.picture import GROUND, draw, on_page, resized
from avatar.viewer.playback import Playback, Source
from avatar.viewer.pose import Pose, pose_at
from avatar.viewer.render_loop import RenderLoop
from avatar.viewer.resolution import LARGEST, Resolution
from avatar.viewer.server import free_port, shown
from avatar.viewer.sources import clip_source, opened_source, uploaded_source
from avatar.viewer.subject import Subject
from avatar.viewer.training import RunWatch

FREE = np.ones(52, np.float32)
FRONT = np.diag([1.0, -1.0, -1.0, 1.0])
WIDE = (1.0, 0.5)


def still(**coefficients: float) -> Pose:
    values = np.zeros(52, np.float32)
    for name, value in coefficients.items():
        values[BLENDSHAPE_INDEX[name]] = value
    return Pose(values, FRONT.copy(), FRONT.copy())


# ----------------------------------------------------------------------------------------------------------- playback


class Clock:
    """A clock that stands still until told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture()
def swinging() -> Motion:
    """Two seconds in which the jaw opens from 0 to 1 and the head turns by 90 degrees."""
    from avatar.geometry import matrix_from_rotvec

    times = np.arange(11) / 5.0
    coefficients = np.zeros((11, 52), np.float32)
    coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] = times / 2
    head = np.repeat(np.eye(4)[None], 11, axis=0)
    head[:, :3, :3] = matrix_from_rotvec(np.outer(times / 2 * np.pi / 2, [0.0, 1.0, 0.0]))
    head[:, 2, 3] = 50 + times
    return Motion(times + 3.0, coefficients, head, np.repeat(np.eye(4)[None], 11, axis=0))


def test_poses_between_frames_lie_between_them_and_rotations_stay_rotations(swinging) -> None:
    pose = pose_at(swinging, 3.0 + 0.5)
    assert pose.coefficients[BLENDSHAPE_INDEX["jawOpen"]] == pytest.approx(0.25)
    assert pose.camera_from_head[2, 3] == pytest.approx(50.5)
    turn = pose.camera_from_head[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.degrees(np.arctan2(turn[0, 2], turn[2, 2])) == pytest.approx(22.5)
    assert pose_at(swinging, -9.0).camera_from_head[2, 3] == 50 and pose_at(swinging, 99.0).camera_from_head[2, 3] == 52


def test_play_pause_seek_and_the_end(swinging) -> None:
    clock = Clock()
    playback = Playback(Source("x", swinging), clock)
    playback.loop = False
    clock.now += 5
    assert playback.seconds == 0 and not playback.playing
    playback.play()
    clock.now += 0.75
    assert playback.seconds == pytest.approx(0.75)
    playback.pause()
    clock.now += 1
    assert playback.seconds == pytest.approx(0.75)
    playback.seek(1.5)
    playback.play()
    clock.now += 0.25
    assert playback.pose(playback.seconds).coefficients.max() == pytest.approx(1.75 / 2)
    clock.now += 10
    assert playback.seconds == 2.0 and not playback.playing
    playback.play()  # once more from the start
    clock.now += 0.5
    assert playback.seconds == pytest.approx(0.5)


def test_a_loop_starts_again(swinging) -> None:
    clock = Clock()
    playback = Playback(Source("x", swinging), clock)
    playback.play()
    clock.now += 4.5
    assert playback.playing and playback.seconds == pytest.approx(0.5)


def test_a_still_source_does_not_play(small_avatar) -> None:
    playback = Playback(Source("rest", small_avatar.rest_motion(np.zeros(1))))
    playback.play()
    assert not playback.playing


# ----------------------------------------------------------------------------------------------------------- controls


def test_controls_at_rest_change_nothing() -> None:
    pose = still(jawOpen=0.3)
    shown = Controls().applied(pose, FREE)
    assert np.array_equal(shown.coefficients, pose.coefficients)
    np.testing.assert_allclose(shown.camera_from_head, pose.camera_from_head, atol=1e-12)


def test_emotions_come_on_top_of_what_plays_and_stay_in_range() -> None:
    shown = Controls(emotions={"happy": 0.5, "surprised": 1.0}).applied(still(jawOpen=0.9), FREE).coefficients
    assert shown[BLENDSHAPE_INDEX["mouthSmileLeft"]] == pytest.approx(0.5 * EMOTIONS["happy"]["mouthSmile"])
    assert shown[BLENDSHAPE_INDEX["jawOpen"]] == 1.0
    assert all(name in BLENDSHAPE_INDEX for emotion in EMOTIONS.values() for stem in emotion for name in names_of(stem))


def test_what_is_added_stays_near_what_the_clip_showed_unless_told_otherwise(small_avatar) -> None:
    largest = ceiling(small_avatar.person)
    brow, jaw = BLENDSHAPE_INDEX["browInnerUp"], BLENDSHAPE_INDEX["jawOpen"]
    assert largest[brow] == pytest.approx(0.1) and largest[jaw] == 1.0  # the clip moves only the jaw
    controls = Controls(emotions={"surprised": 1.0})
    assert controls.applied(still(), largest).coefficients[brow] == pytest.approx(0.1)
    assert controls.applied(still(browInnerUp=0.4), largest).coefficients[brow] == pytest.approx(0.4)
    assert controls.changed(within=False).applied(still(), largest).coefficients[brow] == pytest.approx(0.7)


def test_edited_coefficients_replace_what_plays() -> None:
    edited = np.full(52, 0.25, np.float32)
    assert np.array_equal(Controls(edited=edited).applied(still(jawOpen=0.9), FREE).coefficients, edited)


def test_gaze_moves_both_eyes_the_same_way() -> None:
    values = gaze_coefficients(20.0, 0.0)  # image right: the person's own left
    assert values[BLENDSHAPE_INDEX["eyeLookOutLeft"]] == values[BLENDSHAPE_INDEX["eyeLookInRight"]] > 0.5
    assert values[BLENDSHAPE_INDEX["eyeLookInLeft"]] == values[BLENDSHAPE_INDEX["eyeLookOutRight"]] < -0.5
    looking_left = still(eyeLookInLeft=0.3, eyeLookOutRight=0.3)
    shown = Controls(gaze=(10.0, 0.0)).applied(looking_left, FREE).coefficients
    assert shown[BLENDSHAPE_INDEX["eyeLookInLeft"]] < 0.05 and shown.min() >= 0


def test_turning_the_head_turns_it_in_its_own_axes_and_shifts_are_seen_from_the_camera() -> None:
    head = Controls(turn=(30.0, 0.0, 0.0), shift=(1.0, 2.0, 3.0)).applied(still(), FREE).camera_from_head
    nose = head @ [0.0, 0.0, 10.0, 1.0]
    assert nose[0] == pytest.approx(1 + 5.0)  # to image right
    assert head[:3, 3] == pytest.approx([1.0, -2.0, -3.0])  # right, up, nearer


# -------------------------------------------------------------------------------------------------------------- camera


def test_the_front_view_is_the_clips_own() -> None:
    np.testing.assert_allclose(orbit.view_from_camera(orbit.front(60.0), 60.0), np.eye(4), atol=1e-12)


def test_a_view_from_the_right_sees_the_persons_left_side_come_forward() -> None:
    eye = orbit.view_from_camera(View((60 * np.sin(0.3), 0.0, 60 * np.cos(0.3)), (0.0, 0.0, 0.0)), 60.0)
    head = eye @ np.array([0.0, 0.0, 60.0, 1.0])
    assert head == pytest.approx([0, 0, 60, 1])  # still in the middle, still as far
    nose = eye @ np.array([0.0, 0.0, 50.0, 1.0])
    assert nose[0] == pytest.approx(-10 * np.sin(0.3))  # the nose points to image left


@pytest.mark.parametrize("eye", [(60.0, 0.0, 0.0), (0.0, 60.0, 1.0), (-50.0, -50.0, -50.0), (0.0, 0.0, 600.0)])
def test_views_are_kept_in_range(eye) -> None:
    view = orbit.clamped(View(eye, (0.0, 0.0, 0.0)), 60.0, WIDE)
    x, y, z = view.eye
    assert abs(np.arctan2(x, z)) <= WIDE[0] + 1e-9 and abs(np.arcsin(y / np.linalg.norm(view.eye))) <= WIDE[1] + 1e-9
    assert orbit.NEAREST * 60 <= np.linalg.norm(view.eye) <= orbit.FARTHEST * 60 + 1e-9
    assert orbit.clamped(view, 60.0, WIDE).eye == pytest.approx(view.eye)


def test_a_sensible_view_is_left_alone_and_nonsense_is_the_front() -> None:
    view = View((10.0, 5.0, 55.0), (2.0, 1.0, 0.0))
    kept = orbit.clamped(view, 60.0, WIDE)
    assert kept.eye == pytest.approx(view.eye) and kept.target == pytest.approx(view.target)
    assert orbit.clamped(View((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), 60.0, WIDE) == orbit.front(60.0)


def test_the_range_goes_a_little_beyond_the_turns_of_the_clip() -> None:
    turns = np.zeros((100, 3))
    turns[:, 1] = np.linspace(-0.4, 0.4, 100)
    yaw, pitch = orbit.range_of(turns)
    assert 0.4 < yaw < 0.7 and 0.1 < pitch < 0.2


@pytest.mark.parametrize(("width", "height"), [(1200, 800), (800, 800), (500, 900)])
def test_the_picture_fits_any_page(width: int, height: int) -> None:
    camera = Camera(focal_px=800.0, cx=256.0, cy=256.0, width=512, height=512)
    share = orbit.frame_share(camera, width / height, orbit.field_of_view(camera, width / height))
    assert share * height == pytest.approx(min(width, height))


# ------------------------------------------------------------------------------------------------------------- drawing


def test_drawing_from_the_front_is_what_the_avatar_renders(small_avatar) -> None:
    pose = pose_at(small_avatar.motion, 0.4)
    expected = small_avatar.render(pose.coefficients, pose.camera_from_head, pose.camera_from_torso)
    assert np.array_equal(draw(small_avatar, pose, np.eye(4), 48), expected)


def test_the_clips_own_motion_plays_with_what_its_pictures_showed(small_avatar) -> None:
    frames = len(small_avatar.motion.times)
    codes = np.zeros((frames, sum(CODES.values())), np.float32)
    codes[:, 0] = np.linspace(0, 1, frames)
    motion = dataclasses.replace(small_avatar.motion, codes=codes)
    middle = float(motion.times[3:5].mean())
    pose = pose_at(motion, middle)
    assert pose.codes is not None and pose.codes[0] == pytest.approx(codes[3:5, 0].mean(), abs=1e-6)
    np.testing.assert_array_equal(pose.as_motion().codes, pose.codes[None])
    kept = Controls(emotions={"happy": 1.0}).applied(pose, FREE)
    assert kept.codes is pose.codes
    assert Controls().applied(pose_at(small_avatar.rest_motion(np.zeros(1)), 0.0), FREE).codes is None


def test_view_and_overlays_change_the_picture_but_not_the_backdrop(small_avatar) -> None:
    pose = pose_at(small_avatar.motion, 0.4)
    plain = draw(small_avatar, pose, np.eye(4), 48)
    depth = float(small_avatar.rest_pose("camera_from_head")[2, 3])
    aside = draw(small_avatar, pose, orbit.view_from_camera(View((15.0, 0.0, 45.0), (0.0, 0.0, 0.0)), depth), 48)
    assert np.abs(plain.astype(int) - aside).mean() > 2
    for overlay in ("branches", "skin weights"):
        tinted = draw(small_avatar, pose, np.eye(4), 48, overlay)
        assert np.abs(plain.astype(int) - tinted).max() > 25
        assert np.array_equal(tinted[0, 0], plain[0, 0])


def test_a_picture_is_put_in_the_middle_of_the_page() -> None:
    picture = np.full((4, 4, 3), 200, np.uint8)
    page = on_page(picture, 10, 6)
    assert (page[1:5, 3:7] == 200).all() and (page[:, :3] == GROUND).all() and (page[0] == GROUND).all()
    assert on_page(picture, 2, 8).shape == (8, 2, 3)
    assert resized(picture, 4, 4) is picture and resized(picture, 6, 3).shape == (3, 6, 3)


def test_resolution_follows_motion_and_the_machine() -> None:
    resolution = Resolution(512)
    assert resolution.side(900, moving=False) == 900 and resolution.side(900, moving=True) == 512
    assert resolution.side(3000, moving=False) == LARGEST
    for _ in range(50):
        resolution.took(0.2, resolution.side(900, moving=True))
    assert resolution.side(900, moving=True) == 256 and resolution.side(900, moving=False) == 900
    for _ in range(200):
        resolution.took(0.004, resolution.side(900, moving=True))
    assert resolution.side(900, moving=True) == 900


# ------------------------------------------------------------------------------------------------------- face and sound


def test_every_coefficient_has_a_region_and_pairs_are_mutual() -> None:
    assert {region_of(name) for name in BLENDSHAPES} == set(REGIONS)
    pairs = {name: mirrored(name) for name in BLENDSHAPES}
    assert all(other is None or pairs[other] == name for name, other in pairs.items())
    assert pairs["mouthSmileLeft"] == "mouthSmileRight" and pairs["jawLeft"] is None and pairs["browInnerUp"] is None
    assert label_of("mouthSmileLeft", together=True) == "smile" and label_of("eyeLookUpLeft", False) == "look up left"
    assert label_of("mouthLeft", together=False) == "left" and label_of("tongueOut", together=False) == "tongue out"


def test_the_browser_gets_the_sound_as_a_wav(tmp_path) -> None:
    import base64

    samples = np.sin(np.arange(1600) / 5).astype(np.float32) * 2  # too loud: clipped, not wrapped
    data = audio_element(samples).split("base64,")[1].split('"')[0]
    (tmp_path / "s.wav").write_bytes(base64.b64decode(data))
    with wave.open(str(tmp_path / "s.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 1600)
        heard = np.frombuffer(file.readframes(1600), "<i2") / 32767
    np.testing.assert_allclose(heard, samples.clip(-1, 1), atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- sources


def test_sources(small_avatar, person, tmp_path) -> None:
    capture, track = person
    clip = clip_source(small_avatar, capture)
    assert clip is not None and clip.is_clip and clip.seconds == pytest.approx(21 / 25)
    track_to_csv(track, tmp_path / "moves.csv")
    source = uploaded_source(small_avatar, "../../moves.csv", (tmp_path / "moves.csv").read_bytes())
    assert source.name == "moves.csv" and len(source.motion.times) == 22
    with pytest.raises(UserError, match="without sound"):
        (tmp_path / "s.wav").write_bytes(_wav())
        opened_source(small_avatar, tmp_path / "s.wav")
    with pytest.raises(UserError) as error:
        uploaded_source(small_avatar, "moves.csv", b"\xff\xfe nonsense")
    assert "moves.csv" in str(error.value) and "avatar-view-" not in str(error.value)
    rows = (tmp_path / "moves.csv").read_text().splitlines()
    with pytest.raises(UserError, match=r"^mine\.csv holds a single frame"):
        uploaded_source(small_avatar, "mine.csv", "\n".join(rows[:2]).encode())


def _wav() -> bytes:
    import io

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(32000))
    return buffer.getvalue()


def test_the_real_frame_is_the_one_at_that_time(small_avatar, person) -> None:
    subject = Subject("x", small_avatar, person[0])
    for time, index in ((0.0, 0), (0.081, 2), (0.119, 3), (99.0, 21)):
        assert np.array_equal(subject.real_frame(time), person[0].frames[index])
    assert Subject("x", small_avatar).real_frame(0.0) is None


# ------------------------------------------------------------------------------------------------------------ the loop


class CountingTab:
    """A tab that wants a picture until it has enough."""

    def __init__(self, wanted: int, fails: bool = False) -> None:
        self.drawn, self.refreshed, self.wanted, self.fails = 0, 0, wanted, fails
        self.done = threading.Event()

    def draw_if_needed(self) -> bool:
        if self.fails:
            raise RuntimeError("a fault in drawing")
        if self.drawn == self.wanted:
            self.done.set()
            return False
        self.drawn += 1
        return True

    def refresh(self) -> None:
        self.refreshed += 1


def test_the_loop_serves_all_tabs_and_drops_only_the_one_that_fails(caplog) -> None:
    loop = RenderLoop()
    tabs = [CountingTab(3), CountingTab(2)]
    for tab in (CountingTab(1, fails=True), *tabs):
        loop.add(tab)
    try:
        assert all(tab.done.wait(20) for tab in tabs)
    finally:
        loop.stop()
    assert [tab.drawn for tab in tabs] == [3, 2] and all(tab.refreshed for tab in tabs)
    assert "a viewer tab failed" in caplog.text


# --------------------------------------------------------------------------------------------------------------- runs


def test_the_watch_reads_curves_and_replaces_the_avatar_when_a_file_is_newer(small_avatar, tmp_path) -> None:
    file, loaded = tmp_path / "last.safetensors", []
    file.write_text("1")

    def load():
        if file.read_text() == "broken":
            raise UserError("it is damaged")
        loaded.append(1)
        return small_avatar

    subject = Subject("x", small_avatar)
    watch = RunWatch(tmp_path, 500, (file, tmp_path / "none.avatar"), load)
    watch.poll(subject)
    assert not loaded and watch.progress.step == 0 and not watch.progress.finished

    lines = [{"step": 25, "loss": 0.5}, {"step": 50, "loss": 0.25, "held_out/psnr": 21.0}]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 75, "lo')  # cut in the middle of a line
    watch.poll(subject)
    assert watch.progress.step == 0
    metrics.write_text("\n".join(map(json.dumps, [*lines, {"step": 500, "loss": 0.1}])) + "\n")
    file.write_text("another")
    import os

    os.utime(file, ns=(1, 1))
    watch.poll(subject)
    assert loaded == [1] and subject.current[1] == 1
    assert watch.progress.finished and watch.progress.loss[1].tolist() == [0.5, 0.25, 0.1]
    assert watch.progress.score[0].tolist() == [50.0]

    file.write_text("broken")
    watch.poll(subject)
    assert watch.problem == "it is damaged" and subject.current[1] == 1


# --------------------------------------------------------------------------------------------------------------- ports


def test_a_taken_port_is_an_error_if_asked_for_and_passed_over_if_not(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="another with --port"):
            free_port("127.0.0.1", port)
        monkeypatch.setattr("avatar.viewer.server.DEFAULT_PORT", port)
        assert port < free_port("127.0.0.1", None) < port + 20
    with pytest.raises(UserError, match="out of range"):
        free_port("127.0.0.1", 70000)
    with pytest.raises(UserError, match=r"no address of this machine|Cannot listen"):
        free_port("256.1.1.1", None)
    with pytest.raises(UserError, match="--host is empty"):
        free_port("", None)


def test_the_address_is_one_that_a_browser_takes() -> None:
    assert [shown(host) for host in ("127.0.0.1", "::", "::1", "box.local")] == [
        "localhost", "localhost", "[::1]", "box.local",
    ]  # fmt: skip


def test_who_is_welcome() -> None:
    assert is_welcome("http://localhost:8080", "localhost:8080", local=True) and is_welcome(None, "[::1]:80", True)
    assert not is_welcome("https://elsewhere.example", "localhost:8080", local=True)
    assert not is_welcome("http://me.example:80", "me.example:80", local=True)
    assert is_welcome("http://me.example:80", "me.example:80", local=False) and not is_welcome("null", None, False)


def test_drawing_leaves_no_gradients(small_avatar) -> None:
    before = torch.is_grad_enabled()
    draw(small_avatar, pose_at(small_avatar.motion, 0.0), np.eye(4), 32)
    assert torch.is_grad_enabled() == before
