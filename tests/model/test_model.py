"""The model: identity at the start, shapes, composite order, file format."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, ModelConfig
from avatar.dataset import FrameSet, MotionBatch
from avatar.errors import UserError
from avatar.model import Branch, Metadata, initial_model
from avatar.model.file import SCHEMA, load_avatar_file, packed_bases, save_avatar, unpacked_bases
from avatar.model.gaussians import BASIS_WIDTH
from avatar.model.initialise import diverse_frames
from avatar.types import Camera, Provenance

SMALL = ModelConfig(face=BranchConfig(300, 6), mouth=BranchConfig(40, 3), torso=BranchConfig(120, 3), driver_hidden=8)
CPU = torch.device("cpu")


@pytest.fixture()
def frames(person):
    return FrameSet(*person, CPU)


@pytest.fixture()
def model(frames):
    return initial_model(frames, SMALL, seed=0)


def mean_motion(model) -> MotionBatch:
    f = model.features
    return MotionBatch(f.coefficient_mean[None], f.mean_head[None], f.mean_torso[None])


def test_zero_bases_give_the_canonical_gaussians_whatever_drives_them() -> None:
    branch = Branch(7, 4)
    torch.nn.init.normal_(branch.means)
    moved = branch(torch.randn(3, 4))
    assert torch.equal(moved.means, branch.means.expand(3, 7, 3))
    assert torch.equal(moved.log_scales, branch.log_scales.expand(3, 7, 3))


def test_mean_motion_shows_the_undeformed_head(model) -> None:
    weights = model.weights(mean_motion(model))
    for name, w in weights.items():
        assert torch.allclose(w, torch.zeros_like(w), atol=1e-5), name


def test_without_prior_the_first_frame_is_undeformed_for_every_motion(frames) -> None:
    model = initial_model(frames, dataclasses.replace(SMALL, geometric_prior=False), seed=0)
    weights = model.weights(frames.motion)
    face = model.branch("face")
    assert weights["face"].abs().max() > 0.1
    assert torch.equal(face(weights["face"]).means, face.means.expand(len(frames), -1, -1))


def test_geometric_prior_moves_skin_as_the_landmarks_move(person) -> None:
    from avatar.track.mesh import mean_head
    from avatar.track.prior import landmark_prior

    capture, track = person
    track = dataclasses.replace(track, neutral=mean_head().astype(np.float32))
    frames = FrameSet(capture, track, torch.device("cpu"))
    model = initial_model(frames, dataclasses.replace(SMALL, face=BranchConfig(300, 40)), seed=0)
    motion = mean_motion(model)
    opened = motion.coefficients.clone()
    opened[:, 24] += 0.5  # jawOpen
    moved = model.branch("face")(model.weights(MotionBatch(opened, *dataclasses.astuple(motion)[1:]))["face"])
    shift = (moved.means[0] - model.branch("face").means).detach().numpy()
    chin = 18  # on the skin between lip and chin
    distance = np.linalg.norm(model.branch("face").means.detach().numpy() - track.neutral[chin], axis=1)
    expected = 0.5 * landmark_prior()[24, chin]
    np.testing.assert_allclose(shift[distance.argmin()], expected, atol=0.3 * np.linalg.norm(expected))


def test_step_zero_resembles_the_clip(frames, model) -> None:
    batch = frames.batch(frames.train_indices[:1])
    error = (model(batch.motion).image - batch.images).square().mean()
    plain = (batch.images - batch.images.mean((1, 2), keepdim=True)).square().mean()
    assert error < 0.3 * plain


def test_one_composite_puts_face_over_mouth_over_torso_over_backdrop(model) -> None:
    with torch.no_grad():
        for level, name in enumerate(("face", "mouth", "torso")):
            branch = model.branch(name)
            branch.means.copy_(torch.tensor([0.0, 0.0, float(level)]).expand_as(branch.means))  # torso nearest
            branch.colors.zero_()
            branch.colors[:, level] = 1.0
            branch.log_scales.fill_(1.0)
            branch.opacity_logits.fill_(9.0)
            branch.skin_logits.fill_(9.0)
        composite = model(mean_motion(model), with_coverage=True)
    centre = composite.image[0, 40, 24]
    head_on_screen = torch.nonzero(composite.alpha[0] > 0.9)
    y, x = (int(v) for v in head_on_screen.float().mean(0))
    centre = composite.image[0, y, x]
    assert centre[0] > 0.95 and centre[1] < 0.05 and centre[2] < 0.05
    assert composite.coverage[0, y, x, 0] > 0.95
    corner = composite.image[0, 0, 0]
    assert torch.allclose(corner, model.backdrop[0, 0], atol=1e-4)


def test_gradient_reaches_every_parameter(frames, model) -> None:
    torch.nn.init.normal_(model.branch("face").bases, std=0.1)
    torch.nn.init.normal_(model.branch("mouth").bases, std=0.1)
    torch.nn.init.normal_(model.branch("torso").bases, std=0.1)
    with torch.no_grad():
        model.branch("face").opacity_logits.fill_(-1.0)
    batch = frames.batch(frames.train_indices[3:5])
    (model(batch.motion).image - batch.images).abs().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_another_size_shows_the_same_picture(frames, model) -> None:
    motion = frames.motion_of(torch.tensor([0]))
    with torch.no_grad():
        large = model(motion, frames.camera.scaled(96, 96)).image
        small = model(motion).image
    down = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert (down - small).abs().mean() < 0.02


def test_source_frames_are_distinct_training_frames(frames) -> None:
    chosen = diverse_frames(frames, 8)
    assert len(set(chosen)) == 8 and set(chosen) <= set(frames.train_indices.tolist())
    assert chosen[0] == frames.track.reference_frame


def metadata(camera: Camera) -> Metadata:
    pose = torch.eye(3, 4).tolist()
    return Metadata(
        camera, Provenance("c.mp4", "0" * 64, "1", "2026-01-01T00:00:00+00:00"), 25.0,
        reference_pose={"camera_from_head": pose, "camera_from_torso": pose}, hidden=8,
    )  # fmt: skip


def test_file_round_trip_draws_the_same(tmp_path, frames, model) -> None:
    torch.nn.init.normal_(model.branch("face").bases, std=0.2)
    path = tmp_path / "x.avatar"
    save_avatar(path, model, metadata(model.camera), {"person.a": torch.arange(3.0)})
    again, header, extra = load_avatar_file(path)
    assert header.camera == model.camera and torch.equal(extra["person.a"], torch.arange(3.0))
    assert again.branch("face").bases.shape == (6, model.branch("face").count, BASIS_WIDTH)
    motion = frames.motion_of(torch.tensor([0, 5]))
    with torch.no_grad():
        # float16 bases and the 8-bit plate: half a grey level.
        assert (again(motion).image - model(motion).image).abs().max() < 2.5 / 255
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_the_first_schema_are_read(tmp_path, frames, model) -> None:
    """They kept all columns of the bases in half precision, each in its own unit."""
    torch.nn.init.normal_(model.branch("face").bases, std=0.2)
    path = tmp_path / "x.avatar"
    save_avatar(path, model, metadata(model.camera), {})

    def to_first_schema(tensors) -> None:
        for name in ("face", "mouth", "torso"):
            for part in ("means", "rest", "steps"):
                tensors.pop(f"{name}.basis_{part}")
            branch = model.branch(name)
            tensors[f"{name}.bases"] = (branch.bases.detach() * branch.basis_units).half()

    rewrite(path, lambda h: h.update(schema=1), to_first_schema)
    again, _, _ = load_avatar_file(path)
    motion = frames.motion_of(torch.tensor([0, 5]))
    with torch.no_grad():
        assert (again(motion).image - model(motion).image).abs().max() < 2.5 / 255


def test_bases_survive_the_file_to_half_a_step_of_each_row(model) -> None:
    bases = torch.randn(4, 50, BASIS_WIDTH) * torch.logspace(-4, 1, 50).view(1, 50, 1)
    bases[0, 0] = 0.0
    packed = packed_bases("face", bases)
    assert packed["face.basis_rest"].dtype == torch.int8
    again = unpacked_bases("face", packed)
    error = (again - bases).abs()
    assert (error[..., 3:] <= bases[..., 3:].abs().amax(-1, keepdim=True) * 0.6 / 127 + 1e-7).all()
    assert (error[..., :3] <= bases[..., :3].abs() * 1e-3 + 1e-6).all()


def rewrite(path, change_header=None, change_tensors=None):
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["avatar"])
    if change_header:
        change_header(header)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata={"avatar": json.dumps(header)})


@pytest.mark.parametrize(
    ("header", "tensors", "sentence"),
    [
        (lambda h: h.update(schema=SCHEMA + 1), None, "newer than this program"),
        (lambda h: h.update(schema="x"), None, "names no schema version"),
        (lambda h: h.pop("camera"), None, "is damaged"),
        (lambda h: h["camera"].update(focal_px=-1.0), None, "impossible camera"),
        (None, lambda t: t.pop("face.means"), "is damaged"),
        (None, lambda t: t.update({"face.means": t["face.means"][:-1].clone()}), "is damaged"),
        (None, lambda t: t["torso.colors"].fill_(float("nan")), "not finite"),
        (None, lambda t: t.update(backdrop=torch.zeros(4, 4, 3, dtype=torch.uint8)), "another size"),
    ],
)
def test_foreign_damaged_and_newer_files_are_refused(tmp_path, model, header, tensors, sentence) -> None:
    path = tmp_path / "x.avatar"
    save_avatar(path, model, metadata(model.camera), {})
    rewrite(path, header, tensors)
    with pytest.raises(UserError, match=sentence):
        load_avatar_file(path)


def test_not_an_avatar(tmp_path) -> None:
    with pytest.raises(UserError, match="There is no avatar file"):
        load_avatar_file(tmp_path / "none.avatar")
    text = tmp_path / "text.avatar"
    text.write_text("hello")
    with pytest.raises(UserError, match="is not an avatar file or is damaged"):
        load_avatar_file(text)
    foreign = tmp_path / "foreign.avatar"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="not an avatar"):
        load_avatar_file(foreign)


def test_features_that_the_clip_never_moves_hold_only_the_prior(frames, model) -> None:
    """They get no gradient, so Adam cannot train noise into what a slider would multiply by twenty."""
    driver = model.drivers["face"]
    motion = frames.training_motion()
    held = model.features.unmoved("face", motion)
    assert held[:52].any() and not held[:52].all() and not held[52:].any()
    assert torch.equal(driver.held, held)
    assert not driver.hidden.weight[:, held].any()
    before = driver.linear.weight[:, held].clone()
    driver(torch.randn(3, len(held))).sum().backward()
    assert not driver.linear.weight.grad[:, held].any() and not driver.hidden.weight.grad[:, held].any()
    assert driver.linear.weight.grad[:, ~held].any()
    others = driver.linear.weight[:, ~held].clone()
    driver.fade(0.25)  # what the clip cannot teach again does not fade
    assert torch.equal(driver.linear.weight[:, held], before)
    torch.testing.assert_close(driver.linear.weight[:, ~held], 0.75 * others)
    assert torch.equal(driver.linear.weight[:, held], before)
