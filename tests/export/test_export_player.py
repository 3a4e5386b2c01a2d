"""The player folder without a browser: storage, compaction, manifest, what may be overwritten."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.cli import main
from avatar.conventions import BLENDSHAPES, BRANCHES
from avatar.errors import UserError
from avatar.export import ExportOptions, export, expression
from avatar.export.bundle import joined
from avatar.export.compact import (
    MODE_STEP_CM,
    compact_bases,
    exact_bases,
    head_space_bases,
    principal_mix,
    typical_weights,
)
from avatar.export.manifest import is_player
from avatar.export.payload import Payload, pack, unpack
from avatar.export.player import player_files
from avatar.export.runtime import MODULE, WASM, find_runtime
from avatar.export.sources import player_sources, source_files
from avatar.model import Avatar
from avatar.model.beyond import MODES
from avatar.model.gaussians import BASIS_COLUMNS
from avatar.model.limits import FEATURE_REACH, WEIGHT_REACH
from avatar.progress import SILENT
from avatar.raster import reference


@pytest.mark.parametrize("kind", ["int8", "int16", "float32"])
def test_tensors_come_back_as_they_were(kind):
    values = (np.random.default_rng(0).normal(size=(3, 5, 7)) * 50).astype(kind)
    payload = Payload()
    payload.add("x.bin", "first", np.zeros(4, np.float32))
    payload.add("x.bin", "second", values)
    entry = payload.tensors["second"]
    body = bytes(payload.files["x.bin"])[entry["offset"] : entry["offset"] + entry["bytes"]]
    np.testing.assert_array_equal(unpack(body, entry), values)


def test_quantised_columns_stay_within_half_a_step_and_widen_for_their_range():
    values = np.stack([np.linspace(-1, 1, 50), np.linspace(-900, 900, 50)], axis=1)
    payload = Payload()
    payload.add_quantised("x.bin", "v", values, 0.01, "int16")
    read = {
        k: unpack(bytes(payload.files["x.bin"])[e["offset"] : e["offset"] + e["bytes"]], e)
        for k, e in payload.tensors.items()
    }
    back = (read["v"] * read["v.scale"][:, None]).T
    assert read["v.scale"][0] == pytest.approx(0.01) and read["v.scale"][1] == pytest.approx(900 / 32767)
    assert (np.abs(back - values).max(axis=0) <= 0.501 * read["v.scale"]).all()


def test_what_cannot_be_stored_is_refused():
    payload = Payload()
    payload.add("x.bin", "a", np.zeros(2, np.float32))
    for name, values in (("a", np.zeros(2, np.float32)), ("b", np.zeros(2)), ("c", np.array([np.nan], np.float32))):
        with pytest.raises(ValueError, match=name):
            payload.add("x.bin", name, values)


def test_rotated_bases_move_everything_as_before(lively):
    """Apart from rounding: sum over w' b' is sum over w b, for weights of any motion."""
    someone = Avatar.load(lively)
    weights = typical_weights(someone)
    for name, compact in compact_bases(someone).items():
        bases = head_space_bases(someone, name)[: weights[name].shape[1]]
        stored = np.concatenate([compact.positions, compact.rest], axis=1) * compact.scale[:, :, None]
        before = np.einsum("nk,kci->nci", weights[name], bases)
        after = np.einsum("nk,kci->nci", weights[name] @ compact.mix.T, stored)
        # rounding: K uniform errors of a step each, with weights of unit size
        steps = np.sqrt((compact.scale**2).sum(axis=0) / 12)
        error = np.sqrt(((after - before) ** 2).mean(axis=(0, 2)))
        assert (error < 1.3 * steps).all()
        assert compact.positions.dtype == np.int16 and compact.rest.dtype == np.int8


def test_stored_modes_move_positions_as_the_models_do(silent):
    """Apart from rounding, for each coefficient alone."""
    someone = Avatar.load(silent)
    weights = someone.model.beyond.mix.double().numpy()
    for name, compact in compact_bases(someone).items():
        modes = head_space_bases(someone, name)[someone.model.branch(name).basis_count :]
        assert len(modes) == len(compact.modes) == len(compact.mode_scale) == (0 if name == "torso" else MODES)
        assert not modes[:, 3:].any()
        stored = compact.modes * compact.mode_scale[:, None, None]
        error = np.einsum("cm,mdi->cdi", weights[:, : len(modes)], stored - modes[:, :3])
        # half a step in every mode at once
        assert float(np.abs(error).max(initial=0)) <= 0.5 * MODE_STEP_CM * MODES
        assert np.abs(exact_bases(someone)[name].modes - modes[:, :3]).max(initial=0) < 1e-6


def test_the_mix_makes_weights_uncorrelated_and_bases_orthogonal():
    random = np.random.default_rng(3)
    weights = random.normal(size=(400, 4)) @ random.normal(size=(4, 4))
    bases = random.normal(size=(4, 14, 30))
    mix = principal_mix(bases, weights)
    mixed = weights @ mix.T
    np.testing.assert_allclose(mixed.T @ mixed / 400, np.eye(4), atol=1e-3)  # a weight that never moves has its floor
    rotated = np.linalg.solve(mix.T, bases.reshape(4, -1))
    gram = rotated @ rotated.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-3 * gram.max())
    assert (np.diff(np.diag(gram)) <= 0).all()


def test_bases_that_do_nothing_are_no_trouble(silent):
    someone = Avatar.load(silent)
    with torch.no_grad():
        someone.model.branch("mouth").bases.zero_()
    compact = compact_bases(someone)["mouth"]
    assert not compact.positions.any() and np.isfinite(compact.mix).all() and (compact.scale > 0).all()


def test_the_manifest_declares_every_file_and_repeats_the_conventions(player_folder, lively):
    manifest = json.loads((player_folder / "manifest.json").read_text())
    there = {p.relative_to(player_folder).as_posix(): p.read_bytes() for p in player_folder.rglob("*") if p.is_file()}
    del there["manifest.json"]
    assert set(manifest["files"]) == set(there)
    for path, body in there.items():
        assert manifest["files"][path] == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    someone = Avatar.load(lively)
    assert manifest["coefficients"] == list(BLENDSHAPES)
    assert [layer["name"] for layer in manifest["layers"]] == list(BRANCHES)
    assert [layer["gaussians"] for layer in manifest["layers"]] == [someone.model.branch(b).count for b in BRANCHES]
    assert manifest["raster"]["blur_px2"] == reference.BLUR_PX2
    assert manifest["provenance"]["source_sha256"] == "0" * 64
    assert manifest["speech"]["n_fft"] == 512 and len(manifest["speech"]["coefficient_indices"]) == 28
    assert "LICENSE" in there and "README.md" in there


def stored(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """All tensors of a player, by name."""
    table = json.loads(files["manifest.json"])["tensors"]
    return {n: unpack(files[e["file"]][e["offset"] : e["offset"] + e["bytes"]], e) for n, e in table.items()}


def test_the_order_of_gaussians_is_kept(player_folder, lively):
    found = stored({p.name: p.read_bytes() for p in player_folder.iterdir() if p.is_file()})
    means = found["face.means"] * found["face.means.scale"][:, None] + found["face.means.centre"][:, None]
    np.testing.assert_allclose(means.T, Avatar.load(lively).model.branch("face").means.detach(), atol=1e-3)


@pytest.mark.parametrize("exact", [False, True])
def test_driver_limits_and_mix_are_stored_apart(silent, exact):
    someone = Avatar.load(silent)
    files = player_files(someone, ExportOptions(name="silent", avatar_path=silent, float_bases=exact))
    driver, found = json.loads(files["manifest.json"])["driver"], stored(files)
    reaches = [driver[f"{key}_reach"] for key in ("feature", "weight")]
    assert reaches == [FEATURE_REACH, WEIGHT_REACH]
    for name, bases in (exact_bases(someone) if exact else compact_bases(someone)).items():
        np.testing.assert_array_equal(found[f"{name}.mix"], bases.mix.astype(np.float32))
        limits = someone.model.branch_limits(name).to_tensors()
        assert set(limits) == {"features", "middle", "whitening"}
        for key, bounds in limits.items():
            np.testing.assert_array_equal(found[f"limits.{name}.{key}"], bounds)
        for key, value in someone.model.drivers[name].state_dict().items():
            np.testing.assert_array_equal(found[f"{name}.{key}"], value)
        someone.model.branch_limits(name).load_tensors({}, 0, 0)
    files = player_files(someone, ExportOptions(name="silent", avatar_path=silent, float_bases=exact))
    assert not any(name.startswith("limits.") for name in stored(files))


def test_thirty_thousand_gaussians_take_at_most_eight_megabytes():
    """The worst case of the motion bases, which are nearly all of it: noise, at the budgets of 30 000 Gaussians."""
    random = np.random.default_rng(0)
    # Gaussian noise with the spread, in steps, that bases of fitted avatars have (face, mouth, torso; 20, 8, 6 bases)
    size = 0
    for count, bases in ((1928, 20), (214, 8), (857, 6)):  # a tenth of each
        falling = np.linspace(2, 0.3, bases)[:, None, None]
        position = np.round(random.normal(size=(bases, 3, count)) * 14 * falling).astype(np.int16)
        rest = np.round(random.normal(size=(bases, 11, count)) * 3 * falling).clip(-127, 127).astype(np.int8)
        size += len(pack(position)) + len(pack(rest))
    assert 10 * size < 6.0e6  # leaves 2 MB for splats, backdrop, speech model and page


def test_a_folder_with_other_things_is_left_alone(silent, tmp_path):
    options = ExportOptions(name="silent", avatar_path=silent)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds other files"):
        export(silent, mine, "player", options)
    assert (mine / "diary.txt").read_text() == "keep me"
    out = tmp_path / "out"
    (page,) = export(silent, out, "player", options)
    assert page == out / "index.html" and page.is_file() and is_player(out)
    assert not (out / "a2e.onnx").exists() and json.loads((out / "manifest.json").read_text())["speech"] is None
    export(silent, out, "player", options)  # over an earlier export: fine
    with pytest.raises(UserError, match="no speech model"):
        export(silent, out, "player", ExportOptions(name="silent", avatar_path=silent, runtime=tmp_path))


def test_what_was_added_to_an_earlier_export_stays(silent, tmp_path):
    options = ExportOptions(name="silent", avatar_path=silent)
    out = tmp_path / "out"
    export(silent, out, "player", options)
    (out / "about.html").write_text("mine")
    (out / "img").mkdir()
    (out / "img" / "logo.png").write_bytes(b"mine too")
    (out / "link").symlink_to("img", target_is_directory=True)
    (out / "embed.html").unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["old.bin"] = {}  # of an exporter that wrote something else
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "old.bin").write_bytes(b"old")
    export(silent, out, "player", options)
    assert (out / "about.html").read_text() == "mine" and (out / "img" / "logo.png").read_bytes() == b"mine too"
    assert (out / "link").is_symlink() and (out / "embed.html").is_file() and not (out / "old.bin").exists()
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == set(manifest["files"]) - {"old.bin"}


def test_the_folder_may_be_here_or_behind_a_link(silent, tmp_path, monkeypatch):
    options = ExportOptions(name="silent", avatar_path=silent)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for _ in range(2):
        export(silent, Path(), "player", options)
        assert Path("index.html").is_file() and Path.cwd() == here  # and a shell that stands there still does
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    for _ in range(2):
        export(silent, tmp_path / "link", "player", options)
        assert (tmp_path / "link").is_symlink() and is_player(tmp_path / "real")
    assert {p.name for p in tmp_path.iterdir()} == {"here", "real", "link"}


@pytest.mark.parametrize(("words", "sentence"), [
    (["--expression", "jawOpen=0.5"], "--expression is for ply and spz, not for player"),
    (["--format", "glb", "--expression", "jawOpen=0.5"], "--expression is for ply and spz, not for glb"),
    (["--format", "ply", "--single-file"], "--single-file is for player, not for ply"),
    (["--format", "spz", "--float-bases"], "--float-bases is for player, not for spz"),
    (["--format", "glb", "--runtime", "nowhere"], "--runtime is for player, not for glb"),
    (["--track", "--single-file"], "--single-file is for player, not for track"),
    (["--track", "--expression", "bad"], "no coefficient 'bad'"),
    (["--track", "--format", "nonsense"], "--track is instead of --format nonsense"),
])  # fmt: skip
def test_an_option_of_another_format_is_refused(silent, tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(silent), "-o", str(tmp_path / "out"), *words])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_file_holds_everything_and_reaches_for_nothing(silent, tmp_path):
    (path,) = export(silent, tmp_path, "player", ExportOptions(name="silent", avatar_path=silent, single_file=True))
    assert [p.name for p in tmp_path.iterdir()] == ["silent.html"]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|page:)[^"]+\.(?:js|css)"', text)
    code = text.split('<script type="module">')[1]
    assert not re.search(r"^(?:import|export) ", code, re.MULTILINE)
    for name in ("bases.bin", "manifest.json", "backdrop.png"):
        assert f'data-file="{name}"' in text


def test_the_players_modules_can_be_joined():
    """Each import and export has the form that `joined` knows; every module is reached from the page."""
    files = source_files()
    code = joined(files, "page.js")
    for path in files:
        if path.endswith(".js"):
            assert f"const m_{re.sub(r'[^0-9a-zA-Z_]', '_', path)} =" in code, path
            left = re.findall(r"^\s*(?:import|export)\b.*", joined(files, path), re.MULTILINE)
            assert left == [], path


def test_nothing_comes_from_elsewhere():
    for path in [*player_sources().glob("*.*"), *player_sources().glob("modules/*")]:
        if path.suffix in (".js", ".html", ".css"):
            assert not re.search(r"""(?:src|href|from|import\(|url\()\s*=?\s*["'(]?https?://""", path.read_text()), path


def test_the_runtime_is_looked_for_and_its_absence_said(tmp_path, monkeypatch):
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "dist" / MODULE).write_text("/*!\n * ONNX Runtime Web v9\n * Licensed under the MIT License.\n */\n")
    (package / "dist" / WASM).write_bytes(b"\0asm")
    (package / "package.json").write_text('{"version": "9.0.0"}')
    for place in (tmp_path, package, package / "dist"):
        found = find_runtime(place, SILENT)
        assert found is not None and found.version == "9.0.0"
        assert "MIT" in found.files["runtime/NOTICE.txt"].decode()
    with pytest.raises(UserError, match="npm install onnxruntime-web"):
        find_runtime(tmp_path / "nowhere", SILENT)


def test_basis_columns_are_those_the_shaders_expect():
    assert [(key, width) for key, width, _ in BASIS_COLUMNS] == [
        ("means", 3), ("quats", 4), ("log_scales", 3), ("colors", 3), ("opacity_logits", 1),
    ]  # fmt: skip


def test_expressions_are_checked():
    assert expression(("jawOpen=0.5", "tongueOut=1")) == {"jawOpen": 0.5, "tongueOut": 1.0}
    for word, sentence in (("smile=1", "no coefficient"), ("jawOpen", "value"), ("jawOpen=2", "out of range")):
        with pytest.raises(UserError, match=sentence):
            expression((word,))
