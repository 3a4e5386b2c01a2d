"""PLY, SPZ and GLB, read back by programs that share no code with the writers; the order of Gaussians is kept."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.errors import UserError
from avatar.export import ExportOptions, export
from avatar.export.glb import morph_targets, raised_to
from avatar.export.ply import COLUMNS
from avatar.export.splats import Splats, coefficients_of, positions, splats
from avatar.export.spz import fractional_bits, spz_bytes

HERE = Path(__file__).parent
EXPRESSION = {"jawOpen": 0.7, "mouthSmileLeft": 0.4}


@pytest.fixture()
def saved(small_avatar, tmp_path) -> Path:
    path = tmp_path / "someone.avatar"
    small_avatar.save(path)
    return path


def exported(saved: Path, format: str, **coefficients: float) -> Path:
    options = ExportOptions(name="someone", avatar_path=saved, coefficients=coefficients)
    (path,) = export(saved, saved.parent / "out", format, options)
    assert path == saved.parent / "out" / f"someone.{format}"
    return path


def node(*arguments: str | Path) -> str:
    """Runs Node.js with the packages of tests/export/package.json; skips the test where they are not installed."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is not installed")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("the npm packages of tests/export are not installed (npm ci --prefix tests/export)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def transformed(path: Path) -> dict[str, np.ndarray]:
    """The columns that PlayCanvas' splat-transform reads out of a file, in the axes of a PLY."""
    table = path.with_suffix(".csv")
    node(HERE / "node_modules/@playcanvas/splat-transform/bin/cli.mjs", "-q", "-w", path, table)
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    values = np.array(rows, float)
    return {name: values[:, i] for i, name in enumerate(header)}


def columns(table: dict[str, np.ndarray], *names: str) -> np.ndarray:
    return np.stack([np.asarray(table[n], float) for n in names], axis=1)


def check_ply_columns(table: dict[str, np.ndarray], expected: Splats, tolerance: dict[str, float]) -> None:
    flipped = expected.means * [1, -1, -1]
    np.testing.assert_allclose(columns(table, "x", "y", "z"), flipped, rtol=0, atol=tolerance["means"])
    found = columns(table, "scale_0", "scale_1", "scale_2")
    np.testing.assert_allclose(found, expected.log_scales, rtol=0, atol=tolerance["log_scales"])
    colors = 0.5 + 0.28209479177387814 * columns(table, "f_dc_0", "f_dc_1", "f_dc_2")
    np.testing.assert_allclose(colors, expected.colors, rtol=0, atol=tolerance["colors"])
    opacity = 1 / (1 + np.exp(-np.asarray(table["opacity"], float)))
    np.testing.assert_allclose(opacity, expected.opacities, rtol=0, atol=tolerance["opacities"])
    quats = columns(table, "rot_0", "rot_1", "rot_2", "rot_3")
    agreement = np.abs((quats * expected.quats * [1, 1, -1, -1]).sum(axis=1))
    np.testing.assert_allclose(agreement, 1, rtol=0, atol=tolerance["quats"])


EXACT = {"means": 1e-6, "log_scales": 1e-5, "colors": 1e-6, "opacities": 1e-6, "quats": 1e-6}
# Half a step of each: 2^-21 m, 1/32, half of 1/255 in f_dc * 0.15 as colour, half of 1/255, half of sqrt(1/2)/511.
QUANTISED = {"means": 2**-21 + 1e-7, "log_scales": 1 / 32 + 1e-5, "colors": 0.0037, "opacities": 0.002, "quats": 4e-6}


def test_ply_read_by_plyfile_has_the_expression_in_the_layout_of_3dgs(saved, small_avatar) -> None:
    vertex = PlyData.read(exported(saved, "ply", **EXPRESSION))["vertex"].data
    assert vertex.dtype.names == COLUMNS
    expected = splats(reloaded(saved), coefficients_of(small_avatar, EXPRESSION))
    check_ply_columns({n: vertex[n] for n in COLUMNS}, expected, EXACT)
    neutral = splats(small_avatar, coefficients_of(small_avatar, {}))
    assert np.abs(neutral.means - expected.means).max() > 1e-4  # the expression made a difference


def test_ply_read_by_splat_transform(saved, small_avatar) -> None:
    table = transformed(exported(saved, "ply"))
    assert len(table["x"]) == small_avatar.model.count
    check_ply_columns(table, splats(reloaded(saved), coefficients_of(small_avatar, {})), EXACT)


def test_spz_read_by_splat_transform_keeps_order_and_values(saved, small_avatar) -> None:
    table = transformed(exported(saved, "spz", **EXPRESSION))
    expected = splats(reloaded(saved), coefficients_of(small_avatar, EXPRESSION))
    clipped = Splats(
        expected.means, expected.quats, expected.log_scales, expected.opacity_logits,
        # the format holds colours of 0.5 +- 0.94
        expected.colors.clip(0.5 - 0.5 / 0.15 * 0.28209479, 0.5 + 0.5 / 0.15 * 0.28209479),
    )  # fmt: skip
    check_ply_columns(table, clipped, QUANTISED)


def reloaded(saved: Path):
    """The avatar as its file holds it (bases in float16)."""
    from avatar.model import Avatar

    return Avatar.load(saved)


def test_spz_uses_as_many_fractional_bits_as_fit_and_refuses_what_does_not() -> None:
    def reach(metres: float) -> int:
        return fractional_bits(np.array([[0.0, -metres, 0.0]], np.float32))

    assert [reach(m) for m in (0.4, 7.9, 8.1, 60.0, 127.0)] == [20, 20, 19, 17, 16]
    with pytest.raises(UserError, match="too far"):
        reach(129.0)


def test_spz_has_no_time_stamp(small_avatar) -> None:
    gaussians = splats(small_avatar, small_avatar.rest_coefficients())
    content = spz_bytes(gaussians)
    assert content == spz_bytes(gaussians) and content[4:8] == bytes(4)


# ---------------------------------------------------------------------------------------------------------------- GLB


class Glb:
    """A GLB file taken apart with nothing but struct and json."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        magic, version, length, text_length = struct.unpack_from("<4sIII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        self.json = json.loads(content[20 : 20 + text_length])
        data_length, kind = struct.unpack_from("<I4s", content, 20 + text_length)
        self.data = content[28 + text_length :]
        assert kind == b"BIN\0" and len(self.data) == data_length

    def view(self, index: int, dtype: str) -> np.ndarray:
        view = self.json["bufferViews"][index]
        return np.frombuffer(self.data[view["byteOffset"] :][: view["byteLength"]], dtype)

    def accessor(self, index: int) -> np.ndarray:
        a = self.json["accessors"][index]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[a["type"]]
        dtype = {5126: "<f4", 5121: "u1"}[a["componentType"]]
        values = np.zeros((a["count"], width), dtype)
        if "bufferView" in a:
            values = self.view(a["bufferView"], dtype).reshape(a["count"], width).copy()
        if "sparse" in a:
            rows = self.view(a["sparse"]["indices"]["bufferView"], "<u4")
            values[rows] = self.view(a["sparse"]["values"]["bufferView"], "<f4").reshape(-1, width)
        return values


def test_glb_shows_the_mean_expression_and_morphs_to_each_coefficient(saved) -> None:
    glb, avatar = Glb(exported(saved, "glb")), reloaded(saved)
    mesh = glb.json["meshes"][0]
    primitive, names = mesh["primitives"][0], mesh["extras"]["targetNames"]
    assert tuple(names) == BLENDSHAPES and primitive["mode"] == 0
    base = glb.accessor(primitive["attributes"]["POSITION"]).astype(float)
    targets = np.stack([glb.accessor(t["POSITION"]) for t in primitive["targets"]])
    weights = np.array(mesh["weights"])

    rest, highest = avatar.rest_coefficients(), raised_to(avatar)
    assert highest[BLENDSHAPE_INDEX["jawOpen"]] > 0.9 and (highest > rest).all()
    np.testing.assert_allclose(base + np.tensordot(weights, targets, 1), positions(avatar, rest), rtol=0, atol=2e-6)
    for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkRight"):
        raised, weights_raised = rest.copy(), weights.copy()
        raised[BLENDSHAPE_INDEX[name]] = weights_raised[names.index(name)] = highest[BLENDSHAPE_INDEX[name]]
        shown = base + np.tensordot(weights_raised, targets, 1)
        expected = positions(avatar, raised)
        assert np.abs(expected - positions(avatar, rest)).max() > 1e-4
        np.testing.assert_allclose(shown, expected, rtol=0, atol=2e-6)


def test_glb_attributes_are_activated_and_in_order(saved) -> None:
    glb, avatar = Glb(exported(saved, "glb")), reloaded(saved)
    expected = splats(avatar, avatar.rest_coefficients())
    attributes = glb.json["meshes"][0]["primitives"][0]["attributes"]
    read = {name: glb.accessor(index) for name, index in attributes.items()}
    prefix = "KHR_gaussian_splatting:"
    np.testing.assert_allclose(read[prefix + "SCALE"], np.exp(expected.log_scales), rtol=1e-5)
    np.testing.assert_allclose(read[prefix + "OPACITY"][:, 0], expected.opacities, atol=1e-6)
    np.testing.assert_allclose(read[prefix + "ROTATION"], expected.quats[:, [1, 2, 3, 0]], atol=1e-6)
    colors = 0.5 + 0.28209479177387814 * read[prefix + "SH_DEGREE_0_COEF_0"]
    np.testing.assert_allclose(colors, expected.colors, atol=1e-6)
    np.testing.assert_allclose(read["COLOR_0"][:, :3] / 255, expected.colors.clip(0, 1), atol=0.5 / 255 + 1e-6)


def test_glb_leaves_out_displacements_of_what_stays_still(saved, small_avatar) -> None:
    _, targets = morph_targets(small_avatar)
    torso = slice(small_avatar.model.branch("face").count + small_avatar.model.branch("mouth").count, None)
    assert all(not t[torso].any() for t in targets)  # the torso hears poses, not coefficients
    glb = Glb(exported(saved, "glb"))
    assert any("sparse" in a for a in glb.json["accessors"])


def test_glb_passes_the_khronos_validator_but_for_the_extension_it_does_not_know(saved, small_avatar) -> None:
    found = json.loads(node(HERE / "validate_glb.mjs", exported(saved, "glb")))
    assert found["info"]["hasMorphTargets"] and found["info"]["totalVertexCount"] == small_avatar.model.count
    unknown = [
        m for m in found["issues"]["messages"]
        if "KHR_gaussian_splatting" not in m["message"] + m["pointer"] and m["severity"] < 2
    ]  # fmt: skip
    assert unknown == []
    assert found["issues"]["numErrors"] == 4  # the names of the extension's four attributes


def test_exports_replace_only_their_own_file(saved) -> None:
    path = exported(saved, "spz")
    neighbour = path.with_name("mine.txt")
    neighbour.write_text("keep me")
    first = path.read_bytes()
    exported(saved, "spz", jawOpen=1.0)
    assert neighbour.read_text() == "keep me" and path.read_bytes() != first
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.txt", "someone.spz"]
