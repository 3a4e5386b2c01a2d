"""The track file, the region store and the exchange formats: round trips and bad input."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, CODES, REGION_BACKGROUND, REGION_TORSO
from avatar.errors import UserError
from avatar.geometry import matrix_from_euler, matrix_from_rotvec, rigid
from avatar.track import (
    head_angles,
    head_rotations,
    load_track,
    read_motion_csv,
    read_motion_json,
    save_track,
    track_to_csv,
    track_to_json,
)
from avatar.track.exchange import FACING
from avatar.track.files import VERSION
from avatar.track.mesh import mean_head
from avatar.track.overlay import overlay
from avatar.track.regions import RegionWriter
from avatar.types import Camera, Finding, Track

SIZE, FRAMES = 32, 5


@pytest.fixture
def made_track() -> Track:
    rng = np.random.default_rng(0)
    writer = RegionWriter(SIZE)
    for i in range(FRAMES):
        labels = np.full((SIZE, SIZE), REGION_BACKGROUND, np.uint8)
        labels[i:, 10:] = REGION_TORSO
        writer.add(writer.pack(labels, rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)))
    angles = np.linspace(0, 0.3, FRAMES * 3).reshape(FRAMES, 3)
    poses = rigid(FACING @ matrix_from_euler(angles), np.tile([0.0, 0.0, 60.0], (FRAMES, 1)))
    return Track(
        camera=Camera(70.0, SIZE / 2, SIZE / 2, SIZE, SIZE),
        times=np.array([0, 0.04, 0.08, 0.96, 1.0]),
        valid=np.array([True, True, False, True, True]),
        camera_from_head=poses,
        camera_from_torso=poses,
        coefficients=rng.random((FRAMES, 52), dtype=np.float32),
        landmarks=rng.random((FRAMES, 478, 2), dtype=np.float32) * SIZE,
        neutral=mean_head().astype(np.float32),
        regions=writer.finish(),
        backdrop=rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8),
        reference_frame=3,
        findings=(Finding("warning", "no face in 0.1-0.2 s"),),
        codes=rng.normal(size=(FRAMES, sum(CODES.values()))).astype(np.float32),
    )


def test_track_round_trip(made_track, tmp_path):
    path = tmp_path / "new" / "track.safetensors"
    save_track(made_track, path)
    loaded = load_track(path)
    for name in (
        "times",
        "valid",
        "camera_from_head",
        "camera_from_torso",
        "coefficients",
        "landmarks",
        "neutral",
        "backdrop",
        "codes",
    ):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made_track, name))
    assert (loaded.camera, loaded.reference_frame, loaded.findings) == (made_track.camera, 3, made_track.findings)
    assert len(loaded.regions) == FRAMES
    for i in range(FRAMES):
        np.testing.assert_array_equal(loaded.regions.labels(i), made_track.regions.labels(i))
        np.testing.assert_array_equal(loaded.regions.matte(i), made_track.regions.matte(i))
    assert [p.name for p in path.parent.iterdir()] == ["track.safetensors"]


def test_a_track_need_not_have_codes(made_track, tmp_path):
    path = tmp_path / "track.safetensors"
    save_track(dataclasses.replace(made_track, codes=None), path)
    assert load_track(path).codes is None
    save_track(dataclasses.replace(made_track, codes=np.zeros((FRAMES, 3), np.float32)), path)
    with pytest.raises(UserError, match=r"damaged.*codes"):
        load_track(path)


def test_regions_refuse_wrong_frames_and_indices(made_track):
    with pytest.raises(IndexError):
        made_track.regions.labels(FRAMES)
    with pytest.raises(ValueError, match="uint8 of side 32"):
        RegionWriter(SIZE).pack(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))


def test_load_says_what_is_wrong(made_track, tmp_path):
    path = tmp_path / "track.safetensors"
    with pytest.raises(UserError, match="There is no track at"):
        load_track(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(UserError, match="not a track of this program"):
        load_track(path)
    save_file({"a": np.zeros(1)}, path, metadata={"format": "avatar-track", "version": str(VERSION + 1)})
    with pytest.raises(UserError, match="newer version"):
        load_track(path)
    save_track(made_track, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_track(path)


def test_save_to_an_impossible_place_leaves_nothing(made_track, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError):
        save_track(made_track, tmp_path / "file" / "track.safetensors")
    assert (tmp_path / "file").read_text() == "in the way"


def test_csv_round_trip(made_track, tmp_path):
    path = tmp_path / "motion.csv"
    track_to_csv(made_track, path)
    times, coefficients, angles = read_motion_csv(path)
    np.testing.assert_allclose(times, made_track.times, atol=1e-4)
    np.testing.assert_allclose(coefficients, made_track.coefficients, atol=1e-6)
    np.testing.assert_allclose(FACING @ matrix_from_euler(angles), made_track.camera_from_head[:, :3, :3], atol=1e-5)
    header, first = (line.split(",") for line in path.read_text().splitlines()[:2])
    assert header[:4] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft"]
    assert header[-9:-6] == ["HeadYaw", "HeadPitch", "HeadRoll"] and len(header) == 63
    assert first[0] == "00:00:00:00.000" and len(set(header)) == 63


def test_eye_columns_turn_with_the_gaze(made_track, tmp_path):
    weights = np.zeros((FRAMES, 52), np.float32)
    for name in ("eyeLookOutLeft", "eyeLookInRight"):  # both eyes towards the person's left, which is image right
        weights[:, BLENDSHAPE_INDEX[name]] = 0.5
    path = tmp_path / "motion.csv"
    track_to_csv(Track(**{**made_track.__dict__, "coefficients": weights}), path)
    header, first = (line.split(",") for line in path.read_text().splitlines()[:2])
    left, right = (float(first[header.index(n)]) for n in ("LeftEyeYaw", "RightEyeYaw"))
    assert left == right > 0.1


def test_json_round_trip(made_track, tmp_path):
    path = tmp_path / "motion.json"
    track_to_json(made_track, path)
    times, coefficients, angles = read_motion_json(path)
    assert np.allclose(head_rotations(angles), made_track.camera_from_head[:, :3, :3], atol=1e-4)
    np.testing.assert_allclose(times, made_track.times)
    np.testing.assert_allclose(coefficients, made_track.coefficients, atol=1e-5)
    assert json.loads(path.read_text())["names"] == list(BLENDSHAPES)


def test_foreign_csv_with_few_columns_in_another_order(tmp_path):
    path = tmp_path / "phone.csv"
    path.write_text("JawOpen,Timecode,Unknown\n0.5,10:00:01:29.5,x\n1.5,10:00:02:00.0,y\n")
    times, coefficients, angles = read_motion_csv(path)
    np.testing.assert_allclose(times, [0, 0.5 / 30], atol=1e-9)
    np.testing.assert_allclose(coefficients[:, BLENDSHAPE_INDEX["jawOpen"]], [0.5, 1.0])
    assert angles is None and coefficients.sum() == 1.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a Live Link Face CSV"),
        ("a,b\n1,2\n", "not a Live Link Face CSV"),
        ("Timecode,JawOpen\n", "no frames"),
        ("Timecode,JawOpen\n00:00:00:00.0\n", "cut short"),
        ("Timecode,JawOpen\n00:00:00:00.0,wide\n", "not a number"),
        ("Timecode,JawOpen\n0,0.1\n", "not a number or time code"),
        ("Timecode,JawOpen\n00:00:00:01.0,nan\n", "not finite"),
        ("Timecode,JawOpen\n00:00:00:01.0,0\n00:00:00:01.0,0\n", "do not increase"),
    ],
)
def test_bad_csv(text, sentence, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_motion_csv(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("not json", "not a motion track"),
        ("[]", "not a motion track"),
        ('{"names": ["jawOpen"], "frames": [{"time": 0}]}', "not a motion track"),
        ('{"names": ["jawOpen"], "frames": [{"time": 0, "weights": [1, 2]}]}', "another number of weights"),
        ('{"names": ["ear"], "frames": [{"time": 0, "weights": [1]}]}', "no known coefficient"),
        (
            '{"names": ["jawOpen"], "frames": [{"time": 1, "weights": [1]}, {"time": 0, "weights": [1]}]}',
            "do not increase",
        ),
        ('{"names": null, "frames": [{"time": 0, "weights": [1]}]}', "not a motion track"),
        ('{"names": 5, "frames": [{"time": 0, "weights": [1]}]}', "not a motion track"),
        ('{"names": [["jawOpen"]], "frames": [{"time": 0, "weights": [1]}]}', "not a motion track"),
        ('{"names": ["jawOpen"], "frames": [{"time": 1%s, "weights": [1]}]}' % ("0" * 400), "not a motion track"),
        ("[" * 200_000, "not a motion track"),
        ('{"names": ["jawOpen"], "frames": [{"time": 0, "weights": [1], "head": [30, 0, 0]}]}', "angles are radians"),
    ],
)
def test_bad_json(content, sentence, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_motion_json(path)


def test_json_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "marked.json"
    path.write_text('\ufeff{"names": ["jawOpen"], "frames": [{"time": 0, "weights": [0.5]}]}', encoding="utf-8")
    assert read_motion_json(path)[1][0, BLENDSHAPE_INDEX["jawOpen"]] == 0.5


def test_overlay_draws_over_the_frame_only_where_it_should(made_track):
    frame = np.full((SIZE, SIZE, 3), 200, np.uint8)
    drawn = overlay(frame, made_track, 1, bars=False)
    assert drawn.shape == frame.shape and drawn.dtype == np.uint8
    assert (frame == 200).all() and (drawn != frame).any()


def test_paths_may_be_given_relative(made_track, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_track(made_track, Path("track.safetensors"))
    assert load_track(Path("track.safetensors")).reference_frame == 3


def test_head_angles_have_the_documented_signs_and_compose():
    def turn(axis: int, degrees: float) -> np.ndarray:
        return matrix_from_rotvec(np.eye(3)[axis] * np.radians(degrees))

    def angles(camera_rotation: np.ndarray) -> np.ndarray:
        return np.degrees(head_angles(rigid((camera_rotation @ FACING)[None], np.zeros((1, 3)))))[0]

    np.testing.assert_allclose(angles(np.eye(3)), 0, atol=1e-12)
    # The face's forward axis is the pose's z column: right in the image is +x, down is +y.
    right, up, clockwise = turn(1, -20), turn(0, -15), turn(2, 10)
    assert (right @ FACING)[0, 2] > 0 > (up @ FACING)[1, 2]
    np.testing.assert_allclose(angles(right), (20, 0, 0), atol=1e-9)
    np.testing.assert_allclose(angles(up), (0, -15, 0), atol=1e-9)
    np.testing.assert_allclose(angles(clockwise), (0, 0, -10), atol=1e-9)
    np.testing.assert_allclose(angles(right @ up @ clockwise), (20, -15, -10), atol=1e-9)
