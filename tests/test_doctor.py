"""The examination of the installation: complete rows, honest about what is absent, never an exception."""

from __future__ import annotations

import importlib.util
import io
import sys

import pytest
from rich.console import Console

from avatar import cores
from avatar import doctor as examined
from avatar.doctor import MISSING, OK, OPTIONAL, Check, doctor, memory_limit, print_doctor


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in doctor()}


def without(monkeypatch, *packages: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in packages else real(name, *a))


def test_every_part_of_the_main_path_is_examined(checks):
    assert list(checks) == [
        "Python", "processor", "memory", "disk", "PyTorch", "native rasterizer", "video", "face tracking", "sound",
        "TensorBoard", "viewer", "player's speech", "speech encoder", "presets", "CUDA device", "CUDA rasterizer",
        "gsplat", "nvcc",
    ]  # fmt: skip
    assert all(check.status in (OK, MISSING, OPTIONAL) and check.detail for check in checks.values())
    assert all(check.hint for check in checks.values() if check.status != OK)


def test_what_the_tests_themselves_run_on_is_found(checks):
    import torch

    assert checks["Python"].detail.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert torch.__version__ in checks["PyTorch"].detail and checks["PyTorch"].status == OK
    assert checks["video"].status == OK and "h264" in checks["video"].detail
    assert (memory_limit() or 2**30) > 2**28


def test_optional_things_are_never_missing(checks):
    for name in ("CUDA device", "nvcc"):
        assert checks[name].status in (OK, OPTIONAL)


def test_absent_packages_come_with_the_command_that_gets_them(monkeypatch):
    without(monkeypatch, "mediapipe", "av", "soxr", "tensorboard", "torch")
    found = {check.name: check for check in doctor()}
    for name, command in (
        ("face tracking", "pip install 'mediapipe>=0.10.14,<0.10.22'"),
        ("video", "pip install av"),
        ("sound", "pip install soxr"),
        ("TensorBoard", "pip install tensorboard"),
        ("PyTorch", "pip install torch"),
    ):
        assert found[name].status == MISSING and found[name].hint == command
    assert found["CUDA device"].status == OPTIONAL


def test_a_player_without_its_runtime_is_no_speaking_player(monkeypatch, tmp_path):
    from avatar.export import runtime

    monkeypatch.setattr(runtime, "usual_places", lambda: [tmp_path])
    (check,) = (check for check in doctor() if check.name == "player's speech")
    assert check.status == OPTIONAL and ("onnxruntime-web" in check.detail or "without" in check.detail)
    assert "install" in check.hint


@pytest.mark.parametrize(("asked", "threads"), [("", 4), ("1", 1), ("3", 3), ("64", 4), ("0", 4), ("many", 4)])
def test_threads_are_those_of_the_cores_or_fewer_where_asked(monkeypatch, asked, threads):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores.usable_threads() == threads


def test_a_mediapipe_without_its_models_is_missing(monkeypatch):
    if not importlib.util.find_spec("mediapipe"):
        pytest.skip("mediapipe is not installed")
    monkeypatch.setattr(examined, "FACE_MODELS", ("face_landmark/no_such_model.tflite",))
    (check,) = (check for check in doctor() if check.name == "face tracking")
    assert check.status == MISSING and "without its models (no_such_model)" in check.detail


def test_an_absent_native_module_is_explained(monkeypatch):
    from avatar.raster import native

    monkeypatch.setattr(native, "unavailable", lambda: "no module avatar._raster")
    (check,) = (check for check in doctor() if check.name == "native rasterizer")
    assert (
        check.status == MISSING
        and "PyTorch twin is used (no module avatar._raster)" in check.detail
        and "compiler" in check.hint
    )


def test_a_codec_that_ffmpeg_lacks_is_named(monkeypatch):
    monkeypatch.setattr(examined, "ENCODERS", ("libx264", "no_such_codec"))
    (check,) = (check for check in doctor() if check.name == "video")
    assert check.status == MISSING and check.detail.endswith("without no_such_codec")


def test_a_probe_that_breaks_is_a_row_not_a_traceback(monkeypatch):
    def broken() -> Check:
        raise RuntimeError("library\nis torn")

    monkeypatch.setattr(examined, "_sound", broken)
    (check,) = (check for check in doctor() if check.name == "sound")
    assert check == Check("sound", MISSING, "cannot be examined: library is torn", "Install the package again.")


@pytest.mark.parametrize("width", [60, 100])
def test_table_and_verdict(width):
    rows = [Check("video", OK, "PyAV 1"), Check("sound", MISSING, "without soxr [sic]", "pip install soxr")]
    ready, not_ready = io.StringIO(), io.StringIO()
    print_doctor(rows[:1], Console(file=ready, width=width))
    print_doctor(rows, Console(file=not_ready, width=width))
    assert ready.getvalue() == "video  ok  PyAV 1\n\nReady: everything that a fit needs is here.\n"
    text = not_ready.getvalue()
    assert "without soxr [sic]" in text and "pip install soxr" in text
    assert "Not ready: sound. See above for how to get it." in text
