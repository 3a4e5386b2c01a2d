"""fit -> file -> load -> render -> drive -> eval on a few seconds of the demo capture, at a reduced size."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

import avatar
from avatar.cli import main
from avatar.config import BranchConfig, FitConfig, ModelConfig, SpeechConfig, TrainConfig
from avatar.media import read_speech, write_video
from avatar.model import Avatar
from avatar.pipeline import FitResult, fit
from avatar.progress import Reporter

SECONDS = 6.0
SIZE = 96
CONFIG = FitConfig(
    size=SIZE,
    model=ModelConfig(face=BranchConfig(1200, 8), mouth=BranchConfig(200, 4), torso=BranchConfig(500, 4)),
    train=TrainConfig(steps=160, score_every=80, checkpoint_every=80),
    speech=SpeechConfig(steps=20),
)
TOML = """size = 96
[model.face]
gaussians = 1200
bases = 8
[model.mouth]
gaussians = 200
bases = 4
[model.torso]
gaussians = 500
bases = 4
[train]
steps = 160
checkpoint_every = 20
[speech]
steps = 10
"""


def cut(clip: Path, out: Path, seconds: float, sound: bool = True) -> Path:
    """The first seconds of a clip, at half size."""
    frames = []
    with av.open(str(clip)) as container:
        rate = container.streams.video[0].average_rate
        for frame in container.decode(video=0):
            if frame.time >= seconds:
                break
            frames.append(frame.to_ndarray(format="rgb24", width=256, height=256))
    audio = read_speech(clip)[: round(seconds * 16000)] if sound else None
    write_video(out, frames, rate, audio=audio)
    return out


@pytest.fixture(scope="module")
def short_clip(demo_clip, tmp_path_factory) -> Path:
    return cut(demo_clip, tmp_path_factory.mktemp("clip") / "short.mp4", SECONDS)


@pytest.fixture(scope="module")
def result(short_clip, tmp_path_factory) -> FitResult:
    return fit(short_clip, tmp_path_factory.mktemp("runs") / "someone", CONFIG)


def test_fit_leaves_what_it_promises(result) -> None:
    folder = result.run_folder
    assert result.finished and result.psnr > 20
    for name in ("someone.avatar", "preview.mp4", "report.json", "report.html", "metrics.jsonl", "run.json"):
        assert (folder / name).stat().st_size > 100, name
    assert not [p for p in folder.rglob("*") if "partial" in p.name]
    report = json.loads((folder / "report.json").read_text())
    for key in ("psnr", "ssim", "head", "mouth", "torso", "background", "frames", "seconds_fit", "device"):
        assert report[key] is not None, key
    assert any(said in report["facts"]["sound against picture"] for said in ("no offset", "taken off"))
    assert list(report["rows"]) == ["tracked", "driven", "refined", "speech"]
    assert report["psnr"] == report["rows"]["tracked"]["psnr"] < report["rows"]["refined"]["psnr"]
    with av.open(str(folder / "preview.mp4")) as preview:
        assert preview.streams.audio and preview.streams.video[0].width >= 3 * SIZE


def test_file_loads_and_renders(result) -> None:
    someone = avatar.load(result.avatar_path)
    rest = someone.render()
    smile = someone.render({"jawOpen": 0.8}, size=64)
    assert rest.shape == (SIZE, SIZE, 3) and smile.shape == (64, 64, 3)
    turned = someone.rest_pose("camera_from_head")
    turned[0, 3] += 3.0
    assert np.abs(someone.render(camera_from_head=turned).astype(int) - rest).mean() > 0.5
    with pytest.raises(avatar.UserError, match="no coefficient 'jaw'"):
        someone.render({"jaw": 1.0})


def test_loaded_avatar_draws_as_the_fitted_one(result) -> None:
    pictures = [a.render() for a in (result.avatar, Avatar.load(result.avatar_path))]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 3


def test_header_tells_where_it_comes_from(result, short_clip) -> None:
    from avatar.capture import clip_sha256

    header = avatar.load(result.avatar_path).metadata
    assert header.provenance.source_sha256 == clip_sha256(short_clip)
    assert header.scores["tracked"]["psnr"] == pytest.approx(result.psnr)
    assert "agreed" in header.provenance.consent


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_speech_drives_it(result, short_clip, tmp_path, capsys) -> None:
    out = tmp_path / "talks.mp4"
    assert run("drive", str(result.avatar_path), str(short_clip), "-o", str(out)) == 0
    with av.open(str(out)) as video:
        assert video.streams.audio
        frames = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
    assert abs(len(frames) - SECONDS * 25) <= 1 and frames[0].shape == (SIZE, SIZE, 3)
    motion = np.abs(np.diff(np.stack(frames).astype(int), axis=0)).mean((1, 2, 3))
    assert motion.max() > 0.2


def test_a_speech_encoder_of_the_users_own_is_heard(short_clip, tiny_hubert, tmp_path, capsys) -> None:
    config = dataclasses.replace(
        CONFIG,
        train=dataclasses.replace(CONFIG.train, steps=20),
        speech=SpeechConfig(steps=5, encoder=str(tiny_hubert)),
    )
    path = fit(short_clip, tmp_path / "someone", config).avatar_path
    samples, someone = read_speech(short_clip)[: 2 * 16000], avatar.load(path)
    with_it, without = (someone.stream(encoder=encoder).push(samples) for encoder in (tiny_hubert, None))
    assert np.abs(with_it.coefficients - without.coefficients).max() > 0.01
    out = tmp_path / "talks.mp4"
    assert run("drive", str(path), str(short_clip), "-o", str(out), "--speech-encoder", str(tiny_hubert)) == 0
    assert out.stat().st_size > 1000
    assert run("fit", str(short_clip), "-o", str(tmp_path / "no"), "--speech-encoder", str(tmp_path)) == 2
    assert "There is no speech encoder in" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_another_speech_encoder_is_refused(result, tiny_hubert) -> None:
    someone = avatar.load(result.avatar_path)
    with pytest.raises(avatar.UserError, match="fitted without a speech encoder"):
        someone.stream(encoder=tiny_hubert)
    settings = {"name": "big", "sha256": "0" * 64, "settings": someone.metadata.speech}
    metadata = dataclasses.replace(someone.metadata, encoded=settings)
    other = dataclasses.replace(someone, encoded=someone.speech, metadata=metadata)
    with pytest.raises(avatar.UserError, match="tiny is not big"):
        other.stream(encoder=tiny_hubert)


def test_track_file_drives_it(result, short_clip, tmp_path) -> None:
    track = tmp_path / "t.track.safetensors"
    assert run("track", str(short_clip), "-o", str(track), "--size", "128") == 0
    for suffix in (".csv", ".json"):
        out = tmp_path / f"from{suffix}.mp4"
        assert run("drive", str(result.avatar_path), "--track", str(tmp_path / f"t{suffix}"), "-o", str(out)) == 0
        with av.open(str(out)) as video:
            assert sum(1 for _ in video.decode(video=0)) == pytest.approx(SECONDS * 25, abs=1)


def test_video_drives_it(result, short_clip, tmp_path) -> None:
    out = tmp_path / "follows.mp4"
    assert run("drive", str(result.avatar_path), "--video", str(short_clip), "-o", str(out), "--size", "64") == 0
    with av.open(str(out)) as video:
        assert next(video.decode(video=0)).width == 64


def test_eval_saves_the_scored_pictures(result, short_clip, tmp_path) -> None:
    """The numbers can be recomputed from the saved pictures, and tracking anew gives them again."""
    from PIL import Image

    for k, path in enumerate((result.avatar_path, tmp_path / "elsewhere.avatar")):
        if k:
            path.write_bytes(result.avatar_path.read_bytes())  # no run beside it: the clip is tracked anew
        saved, scores = tmp_path / f"frames{k}", tmp_path / f"scores{k}.json"
        assert (
            run("eval", str(path), "--clip", str(short_clip), "--save-frames", str(saved), "--json", str(scores)) == 0
        )
        values = []
        for render in sorted((saved / "render").glob("*.png")):
            a, b = (np.asarray(Image.open(p), float) / 255 for p in (render, saved / "truth" / render.name))
            values.append(-10 * np.log10(((a - b) ** 2).mean()))
        body = json.loads(scores.read_text())
        assert body["frames"] == len(values)
        assert body["psnr"] == pytest.approx(np.mean(values), abs=1e-3)
        assert body["psnr"] == pytest.approx(result.psnr, abs=0.2)


def test_another_clip_is_not_mixed_into_a_run(result, short_clip, demo_clip, tmp_path, capsys) -> None:
    other = cut(demo_clip, tmp_path / "other.mp4", 3.0)
    assert run("fit", str(other), "-o", str(result.run_folder)) == 2
    assert "another clip (short.mp4)" in capsys.readouterr().err
    assert run("fit", str(short_clip), "-o", str(result.run_folder), "--resume", "--steps", "7") == 2
    assert "other settings" in capsys.readouterr().err


def test_without_sound_the_fit_succeeds_and_says_so(demo_clip, tmp_path, capsys) -> None:
    clip = cut(demo_clip, tmp_path / "mute.mp4", 3.0, sound=False)
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=20))
    mute = fit(clip, tmp_path / "mute", config, reporter=Reporter())
    assert "speech is skipped" in capsys.readouterr().err
    assert mute.finished and mute.avatar.speech is None
    assert run("drive", str(mute.avatar_path), str(demo_clip)) == 2
    assert "without sound" in capsys.readouterr().err


def test_ctrl_c_leaves_a_usable_avatar_and_resume_ends_like_an_unbroken_run(short_clip, tmp_path) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text(TOML)
    command = [sys.executable, "-m", "avatar", "fit", str(short_clip), "--preset", str(preset), "-o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    broken = tmp_path / "broken"
    process = subprocess.Popen([*command, str(broken)], env=environment, stderr=subprocess.DEVNULL)
    checkpoint = broken / "checkpoints" / "last.safetensors"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert avatar.load(broken / "broken.avatar").render().std() > 10
    assert subprocess.run([*command, str(broken), "--resume"], env=environment, check=False).returncode == 0
    whole = tmp_path / "whole"
    assert subprocess.run([*command, str(whole)], env=environment, check=False).returncode == 0
    a, b = (avatar.load(p / f"{p.name}.avatar").render() for p in (broken, whole))
    assert np.array_equal(a, b)
