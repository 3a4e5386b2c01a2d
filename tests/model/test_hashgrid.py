"""The hashgrid motion field: encoding, start at rest, training, resume, and baking to linear bases."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import torch

from avatar.config import BranchConfig, FitConfig, ModelConfig, TrainConfig
from avatar.conventions import BRANCHES
from avatar.dataset import FrameSet
from avatar.model import AvatarModel, Branch, Metadata, baked, hash_encoding, initial_model
from avatar.model.bake import bake_branch
from avatar.model.file import load_avatar_file, save_avatar
from avatar.model.gaussians import BASIS_UNITS, BASIS_WIDTH
from avatar.model.hash_encoding import ENCODING_WIDTH, LEVELS, TinyCudaTriPlane, TriPlaneHash, tri_plane
from avatar.model.hashgrid import HashField
from avatar.pipeline import finished_model
from avatar.progress import SILENT
from avatar.train import Trainer
from avatar.types import Provenance

CONFIG = FitConfig(
    model=ModelConfig(
        face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), motion="hashgrid"
    ),
    train=TrainConfig(steps=8),
)
BASES = {name: getattr(CONFIG.model, name).bases for name in BRANCHES}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tables of 1024 rows a level: all but two levels are hashed; and short fits of weights."""
    monkeypatch.setattr(hash_encoding, "LOG2_ROWS", 10)
    monkeypatch.setattr("avatar.model.bake.FIT_STEPS", 30)


@pytest.fixture()
def frames(person):
    return FrameSet(*person, CPU)


def stirred(model: AvatarModel) -> AvatarModel:
    """Fields that move something."""
    torch.manual_seed(1)
    for field in model.fields.values():
        torch.nn.init.normal_(field.out.weight, std=0.3)
        for table in field.encoding.parameters():
            torch.nn.init.normal_(table)
    return model


def double_encoding() -> TriPlaneHash:
    torch.manual_seed(0)
    encoding = TriPlaneHash().double()
    torch.nn.init.normal_(encoding.table)
    return encoding


def test_gradients_of_the_encoding_match_finite_differences() -> None:
    encoding = double_encoding()
    # Cells change at multiples of 1/cells, where the encoding has corners: stay inside.
    positions = (torch.rand(4, 3, dtype=torch.float64) * 0.9 + 0.05).requires_grad_(True)
    scaled = positions.detach()[..., None] * encoding.cells
    assert (scaled - scaled.round()).abs().min() > 1e-4

    def of_rows(rows):
        used = torch.zeros_like(encoding.table).index_copy(0, looked_at, rows)
        return torch.func.functional_call(encoding, {"table": used}, (positions.detach(),))

    encoding(positions.detach()).sum().backward()
    looked_at = encoding.table.grad.abs().sum(1).nonzero().flatten()[::7]
    assert torch.autograd.gradcheck(encoding, (positions,), eps=1e-7, atol=1e-5)
    assert torch.autograd.gradcheck(of_rows, (encoding.table.detach()[looked_at].requires_grad_(True),))


def test_at_the_corners_of_the_coarsest_level_the_encoding_is_the_table() -> None:
    encoding = TriPlaneHash()
    with torch.no_grad():
        encoding.table.copy_(torch.arange(float(encoding.table.numel())).view_as(encoding.table))
    features = encoding(torch.tensor([[3.0, 5.0, 16.0]]) / 16).view(3, LEVELS, 2)[:, 0]
    rows_per_plane = LEVELS * 2**10
    for plane, (x, y) in enumerate(((3, 5), (5, 16), (3, 16))):
        expected = encoding.table[plane * rows_per_plane + x + 17 * y]
        assert torch.allclose(features[plane], expected), plane


def test_encoding_is_continuous_across_cells_and_constant_outside() -> None:
    encoding = double_encoding()
    edge = torch.full((1, 3), 0.5, dtype=torch.float64)  # a cell's border at even numbers of cells
    assert torch.allclose(encoding(edge - 1e-9), encoding(edge + 1e-9), atol=1e-5)
    outside, border = torch.tensor([[1.7, -0.3, 0.4]]).double(), torch.tensor([[1.0, 0.0, 0.4]]).double()
    assert torch.equal(encoding(outside), encoding(border))


def test_a_new_field_moves_nothing_whatever_drives_it(frames) -> None:
    model = initial_model(frames, CONFIG.model, seed=0)
    still = initial_model(frames, dataclasses.replace(CONFIG.model, motion="basis", geometric_prior=False), seed=0)
    assert set(model.fields) == set(BRANCHES) and not still.fields
    motion = frames.motion_of(torch.tensor([0, 7]))
    with torch.no_grad():
        assert torch.equal(model(motion).image, still(motion).image)


def test_each_frame_of_a_batch_has_its_own_offsets(frames) -> None:
    model = stirred(initial_model(frames, CONFIG.model, seed=0))
    with torch.no_grad():
        together = model(frames.motion_of(torch.tensor([2, 9]))).image
        alone = [model(frames.motion_of(torch.tensor([i]))).image for i in (2, 9)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_gradient_reaches_every_parameter_of_the_fields(frames) -> None:
    model = stirred(initial_model(frames, CONFIG.model, seed=0))
    batch = frames.batch(frames.train_indices[3:5])
    (model(batch.motion).image - batch.images).abs().mean().backward()
    for name, parameter in model.drivers.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_attention_keeps_a_driver_channel_from_where_it_is_not_heard() -> None:
    field = HashField(5)
    torch.nn.init.normal_(field.out.weight)
    with torch.no_grad():
        field.attention[2].weight.zero_()
        field.attention[2].bias.fill_(-100.0)  # sigmoid: nothing is heard anywhere
        offsets = field(torch.rand(4, 3), torch.randn(3, 5))
    assert torch.equal(offsets[0], offsets[1]) and offsets.shape == (3, 4, BASIS_WIDTH)


def linear_field(bases: int, features: int):
    """Offsets that are linear in the driver (and a part that is always there), each a wild function of position."""
    torch.manual_seed(3)
    waves, mix, always = torch.randn(3, bases * BASIS_WIDTH), torch.randn(bases, features), torch.randn(3, BASIS_WIDTH)

    def offsets(means, drivers):
        own = torch.sin(means @ waves).view(-1, bases, BASIS_WIDTH)
        return torch.einsum("nkw,kd,bd->bnw", own, mix, drivers) + torch.cos(means @ always)

    return offsets


@pytest.mark.parametrize("rows_at_once", [2**16, 100])
def test_a_linear_field_is_baked_exactly(monkeypatch, rows_at_once) -> None:
    monkeypatch.setattr("avatar.model.bake.ROWS_AT_ONCE", rows_at_once)
    branch = Branch(50, 0)
    torch.nn.init.normal_(branch.means)
    offsets = linear_field(3, 6)
    result, driver = bake_branch(branch, offsets, torch.randn(40, 6), 3, 8)
    fresh = torch.randn(5, 6)  # drivers that it was not baked for
    expected = branch.means + offsets(branch.means, fresh)[..., :3] * BASIS_UNITS[0]
    moved = result(driver(fresh))
    assert result.basis_count == 3
    assert torch.allclose(moved.means, expected, atol=1e-4)
    logits = branch.opacity_logits + offsets(branch.means, fresh)[..., 13] * BASIS_UNITS[13]
    assert torch.allclose(moved.opacity_logits, logits, atol=1e-3)


def test_more_bases_come_nearer_to_the_field(frames) -> None:
    model = stirred(initial_model(frames, CONFIG.model, seed=0))
    motion = frames.training_motion()
    errors = []
    for count in (1, 2, 30):  # the short fits of weights leave little for more than four
        flat = baked(model, motion, dict.fromkeys(BRANCHES, count), 8)
        assert not flat.fields and flat.branch("face").basis_count == min(count, len(motion))
        with torch.no_grad():
            errors.append(float((flat(motion).image - model(motion).image).abs().mean()))
    assert errors[0] > 1.2 * errors[1] > 1.2 * 1.2 * errors[2] and errors[2] < 1e-3, errors


def test_a_finished_fit_is_an_avatar_with_bases_that_a_file_holds(tmp_path, frames) -> None:
    trainer = Trainer(frames, stirred(initial_model(frames, CONFIG.model, 0)), CONFIG, tmp_path)
    model, facts = finished_model(trainer, SILENT)
    assert {name: model.branch(name).basis_count for name in BRANCHES} == BASES
    assert "dB before" in facts["motion field baked"]
    pose = torch.eye(3, 4).tolist()
    header = Metadata(
        model.camera, Provenance("c.mp4", "0" * 64, "1", "2026-01-01T00:00:00+00:00"), 25.0,
        reference_pose={"camera_from_head": pose, "camera_from_torso": pose}, hidden=CONFIG.model.driver_hidden,
    )  # fmt: skip
    with pytest.raises(ValueError, match="bake the hashgrid first"):
        save_avatar(tmp_path / "x.avatar", initial_model(frames, CONFIG.model, 0), header, {})
    save_avatar(tmp_path / "x.avatar", model, header, {})
    again, _, _ = load_avatar_file(tmp_path / "x.avatar")
    motion = frames.motion_of(torch.tensor([0, 5]))
    with torch.no_grad():
        assert (again(motion).image - model(motion).image).abs().max() < 2.5 / 255


def test_tiny_cuda_nn_gets_the_same_grids_and_each_plane_its_axes(monkeypatch) -> None:
    class Encoding(torch.nn.Module):
        """As tinycudann.Encoding: inputs and settings in, a flat parameter, levels times features out."""

        def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
            super().__init__()
            torch.manual_seed(seed)
            self.settings = encoding_config
            width = encoding_config["n_levels"] * encoding_config["n_features_per_level"]
            self.params = torch.nn.Parameter(torch.randn(n_input_dims * width, dtype=dtype))

        def forward(self, x):
            return x @ self.params.view(x.shape[1], -1)

    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=Encoding))
    encoding = TinyCudaTriPlane()
    settings = encoding.planes[0].settings
    cells = [settings["base_resolution"] * settings["per_level_scale"] ** level for level in range(LEVELS)]
    assert [round(c) for c in cells] == TriPlaneHash().cells.tolist()
    near, far = encoding(torch.tensor([[0.2, 0.4, 0.1], [0.2, 0.4, 0.9]])).view(2, 3, -1).unbind(0)
    assert near.numel() == ENCODING_WIDTH and torch.equal(near[0], far[0])
    assert not torch.equal(near[1], far[1]) and not torch.equal(near[2], far[2])
    assert isinstance(tri_plane(CPU), TriPlaneHash)
