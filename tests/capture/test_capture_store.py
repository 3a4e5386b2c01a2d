"""The capture on disk: random access, damage, full disks, interruptions."""

import json
import pickle
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from avatar.capture.store import FrameStore, check_space, clip_sha256, load_capture, new_folder, write_header
from avatar.errors import UserError
from avatar.types import Capture, Crop, Finding

FRAMES = np.random.default_rng(0).integers(0, 255, (7, 16, 16, 3), np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "capture"
    with new_folder(folder) as partial:
        FRAMES.tofile(partial / "frames.rgb")
        store = FrameStore(partial / "frames.rgb", 7, 16)
        sound = np.linspace(-1, 1, 4480, dtype=np.float32)
        findings = (Finding("note", "a remark"),)
        write_header(
            partial,
            Capture(
                partial,
                store,
                np.arange(7) / 25,
                25.0,
                sound,
                Crop(3, 4, 32, 16),
                "me.mp4",
                "ab" * 32,
                (64, 48),
                findings,
            ),
        )
        store.close()
    return folder


def test_what_was_written_is_read(folder):
    capture = load_capture(folder)
    assert len(capture.frames) == 7 and capture.size == 16 and capture.fps == 25.0
    for i in (3, 0, 6, -1, np.int64(2)):
        np.testing.assert_array_equal(capture.frames[i], FRAMES[i])
    np.testing.assert_array_equal(capture.times, np.arange(7) / 25)
    np.testing.assert_array_equal(capture.audio, np.linspace(-1, 1, 4480, dtype=np.float32))
    assert (capture.crop, capture.source_size) == (Crop(3, 4, 32, 16), (64, 48))
    assert (capture.source_name, capture.source_sha256) == ("me.mp4", "ab" * 32)
    assert capture.findings == (Finding("note", "a remark"),)
    for i in (7, -8):
        with pytest.raises(IndexError):
            capture.frames[i]


def test_frames_are_fresh_arrays(folder):
    frames = load_capture(folder).frames
    frames[2][:] = 0
    np.testing.assert_array_equal(frames[2], FRAMES[2])


def test_threads_and_pickled_copies_read_the_same(folder):
    frames = load_capture(folder).frames
    copy = pickle.loads(pickle.dumps(frames))
    wanted = list(range(7)) * 30
    with ThreadPoolExecutor(8) as pool:
        for store in (frames, copy):
            for i, frame in zip(wanted, pool.map(store.__getitem__, wanted), strict=True):
                np.testing.assert_array_equal(frame, FRAMES[i])


def _edit(folder: Path, **changes) -> None:
    header = json.loads((folder / "capture.json").read_text())
    (folder / "capture.json").write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize("damage,sentence", [
    (lambda f: (f / "capture.json").unlink(), "There is no prepared clip"),
    (lambda f: (f / "capture.json").write_text("{"), "cannot be read"),
    (lambda f: (f / "capture.json").write_text("[]"), "does not describe a prepared clip"),
    (lambda f: _edit(f, format="other"), "does not describe a prepared clip"),
    (lambda f: _edit(f, version=99), "newer version"),
    (lambda f: _edit(f, crop={"left": 1}), "is damaged"),
    (lambda f: _edit(f, times=[0, 0, 1, 2, 3, 4, 5]), "is damaged"),
    (lambda f: _edit(f, times=[]), "is damaged"),
    (lambda f: (f / "frames.rgb").write_bytes(b"short"), "5 bytes long instead of 5376"),
    (lambda f: (f / "frames.rgb").unlink(), "frames.rgb is missing"),
    (lambda f: (f / "audio.f32").unlink(), "audio.f32 is missing"),
])  # fmt: skip
def test_damage_is_a_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        load_capture(folder)


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("a reason"), RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path, error):
    with pytest.raises(BaseException) as raised, new_folder(tmp_path / "runs" / "one" / "capture") as partial:
        (partial / "frames.rgb").write_bytes(b"half")
        raise error
    assert raised.type in (KeyboardInterrupt, UserError, RuntimeError)
    assert _names(tmp_path) == []


def test_an_interruption_keeps_the_older_capture(folder):
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as partial:
        (partial / "frames.rgb").write_bytes(b"half")
        raise KeyboardInterrupt
    assert _names(folder.parent) == ["capture"]
    np.testing.assert_array_equal(load_capture(folder).frames[1], FRAMES[1])


def test_a_new_capture_replaces_the_older_one(folder):
    with new_folder(folder) as partial:
        (partial / "capture.json").write_text("new")
    assert _names(folder.parent) == ["capture"] and _names(folder) == ["capture.json"]


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, sentence in [
        ("holiday", "holds other files"),
        ("file", "a file of that name"),
        ("file/in", "Cannot write"),
    ]:
        with pytest.raises(UserError, match=sentence), new_folder(tmp_path / name):
            pytest.fail("nothing may be written")
    assert _names(tmp_path) == ["file", "holiday"] and _names(tmp_path / "holiday") == ["photo.jpg"]


def test_disk_errors_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"The disk of .* is full"), new_folder(tmp_path / "capture"):
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"Cannot write into .*Permission denied"), new_folder(tmp_path / "capture"):
        raise PermissionError(13, "Permission denied")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12, 10**8))
    with pytest.raises(UserError, match=r"needs 7\.1 GB .* has 0\.1 GB free"):
        check_space(tmp_path / "not" / "yet" / "there", 9000, 512)
    check_space(tmp_path, 10, 512)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert clip_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180
    with pytest.raises(UserError, match="cannot be read"):
        clip_sha256(tmp_path / "b")
