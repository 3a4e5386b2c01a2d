"""Beyond the clip: nothing changes within its own motion, the geometric prior moves what the limits stop, the file
keeps it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.config import BranchConfig, ModelConfig
from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, BRANCHES
from avatar.dataset import FrameSet, MotionBatch
from avatar.errors import UserError
from avatar.model import AvatarModel, add_prior, initial_model
from avatar.model.anatomy import BUMPS, facial_motion
from avatar.model.beyond import CARRIED, LIPS_CM, LIPS_REACH, MODES, Beyond
from avatar.model.carry import CAVITY_DEPTH_CM, LOWER_LIP, UPPER_LIP, carried_by_face, carried_in_mouth
from avatar.model.file import load_avatar_file
from avatar.track.mesh import CHIN, LEFT_EYE, LEFT_IRIS, mean_head
from avatar.track.prior import landmark_prior

SMALL = ModelConfig(face=BranchConfig(900, 6), mouth=BranchConfig(60, 3), torso=BranchConfig(120, 3), driver_hidden=8)


@pytest.fixture()
def frames(person) -> FrameSet:
    capture, track = person
    track = dataclasses.replace(track, neutral=mean_head().astype(np.float32))
    return FrameSet(capture, track, torch.device("cpu"))


@pytest.fixture()
def model(frames) -> AvatarModel:
    """Not fitted, but with learned bases that all do something."""
    model = initial_model(frames, SMALL, seed=0).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    for name in BRANCHES:
        branch = model.branch(name)
        branch.bases += 0.3 * torch.randn(branch.bases.shape, generator=random)
        branch.opacity_logits.fill_(5.0)
    add_prior(model, frames.track)
    model.measure_limits(frames.training_motion())
    return model


def slider(model: AvatarModel, frames: FrameSet, name: str, values: list[float]) -> MotionBatch:
    """One coefficient at some values, the others at the mean expression, in the pose of the first frame."""
    pose = frames.motion_of(torch.zeros(len(values), dtype=torch.long))
    coefficients = model.features.coefficient_mean.repeat(len(values), 1)
    coefficients[:, BLENDSHAPE_INDEX[name]] = torch.tensor(values)
    return dataclasses.replace(pose, coefficients=coefficients)


def places(model: AvatarModel, motion: MotionBatch, branch: str = "face") -> torch.Tensor:
    return model.branch(branch)(model.weights(motion)[branch]).means


def unmoved(frames: FrameSet) -> list[str]:
    """Coefficients that the synthetic clip never moves and anyone's face has."""
    still = frames.training_motion().coefficients.std(0) == 0
    moves = np.abs(facial_motion()).max(axis=(1, 2)) > 0
    return [
        name for name, held, there in zip(BLENDSHAPES, still.tolist(), moves.tolist(), strict=True) if held and there
    ]


def test_within_the_clip_no_mode_moves_and_pictures_are_the_same_to_the_bit(frames, model):
    motion = frames.training_motion()
    weights = model.weights(motion)
    for name in BRANCHES:
        assert weights[name].shape[1] == model.branch(name).basis_count + (MODES if name in CARRIED else 0)
        assert not weights[name][:, model.branch(name).basis_count :].any()
    few = motion.at(torch.arange(4))
    pictures = model(few).image
    for name in CARRIED:
        model.branch(name).bases[model.branch(name).basis_count :] = torch.nan  # would show
    assert torch.equal(model(few).image, pictures)


def test_a_slider_that_the_clip_never_moved_goes_all_the_way(frames, model):
    mesh, field = model.beyond.mesh.double().numpy(), model.beyond.field.double().numpy()
    whole = torch.from_numpy(carried_by_face(model.branch("face").means.double().numpy(), mesh, field))
    names = [name for name in unmoved(frames) if name != "mouthClose"]  # see the lips, below
    assert len(names) > 40
    shares = []
    for name in names:
        rest, end = places(model, slider(model, frames, name, [0.0, 1.0])).double()
        prior = whole[BLENDSHAPE_INDEX[name]]
        shares.append(float(((end - rest) * prior).sum() / prior.square().sum()))
    assert min(shares) > 0.8 and max(shares) < 1.2 and 0.95 < np.mean(shares) < 1.05


@pytest.mark.parametrize("name", ["mouthFunnel", "jawOpen", "browInnerUp", "mouthClose"])
def test_a_slider_never_turns_back_nor_jumps(frames, model, name):
    values = np.linspace(0, 1, 101).tolist()
    moved = places(model, slider(model, frames, name, values))
    along = ((moved - moved[0]) * (moved[-1] - moved[0])).sum(dim=(1, 2))
    along = along / along[-1]
    assert float(along.diff().min()) > -1e-3 and float(along.diff().max()) < 0.1


def test_no_coefficient_asks_for_more_than_one(frames, model):
    at_end, far_past = places(model, slider(model, frames, "mouthFunnel", [1.0, 9.0]))
    torch.testing.assert_close(at_end, far_past, atol=2e-2, rtol=0)


def test_lips_neither_tear_nor_pass_through_each_other(frames, model):
    beyond = model.beyond
    low, high = LIPS_CM[0] - LIPS_REACH * np.ptp(LIPS_CM), LIPS_CM[1] + LIPS_REACH * np.ptp(LIPS_CM)

    def gap(wanted: torch.Tensor) -> float:
        """How much further apart the lips' middles are, as the modes move them."""
        nothing = torch.zeros(1, model.branch("face").basis_count)
        weights = beyond(wanted, torch.zeros(1, 52), nothing, nothing)
        lips = beyond.mesh[list(UPPER_LIP + LOWER_LIP)].double().numpy()
        field = carried_by_face(lips, beyond.mesh.double().numpy(), beyond.field.double().numpy())[:, :, 1]
        # back from modes to coefficients: the mix has full rank
        coefficients = weights @ torch.linalg.pinv(beyond.mix)
        moved = (coefficients.double().numpy() @ field)[0]
        return float(moved[:3].mean() - moved[3:].mean())

    def all_of(*names: str) -> torch.Tensor:
        return torch.tensor([[float(name in names) for name in BLENDSHAPES]])

    assert gap(all_of("jawOpen")) == pytest.approx(2.9, abs=0.3)  # as wide as it opens by itself
    torn = all_of("jawOpen", "mouthFunnel", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthShrugUpper")
    assert float(torn @ beyond.opening) > 5 and 2.9 < gap(torn) < high + 0.2
    assert low - 0.2 < gap(all_of("mouthClose")) < LIPS_CM[0]
    assert gap(all_of("mouthClose", "jawOpen")) == pytest.approx(0.2, abs=0.3)  # what it is there for
    # brows do not heed the lips
    brow = beyond.mix[BLENDSHAPE_INDEX["browInnerUp"]]
    nothing = torch.zeros(1, model.branch("face").basis_count)
    with_brow, without = (
        beyond(wanted, torch.zeros(1, 52), nothing, nothing) for wanted in (torn + all_of("browInnerUp"), torn)
    )
    torch.testing.assert_close(with_brow - without, brow[None], atol=2e-2 * float(brow.abs().max()), rtol=0)


def test_gradients_reach_the_coefficients_through_the_modes(frames, model):
    motion = slider(model, frames, "mouthFunnel", [0.8])
    # away from the ends of the clip's ranges, where the derivative has steps
    spread = torch.rand(1, 52, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coefficients = (0.6 + 0.2 * spread).requires_grad_(True)
    exact = model.double()

    def weights(values: torch.Tensor) -> torch.Tensor:
        moved = MotionBatch(values, motion.camera_from_head.double(), motion.camera_from_torso.double())
        return exact.weights(moved)["face"][:, exact.branch("face").basis_count :]

    assert torch.autograd.gradcheck(weights, coefficients, atol=1e-4)


def test_the_modes_hold_nearly_all_of_the_prior(model):
    fields = {}
    for name, by in CARRIED.items():
        branch = model.branch(name)
        mesh, field = model.beyond.mesh.double().numpy(), model.beyond.field.double().numpy()
        modes = (branch.bases * branch.basis_units)[branch.basis_count :]
        assert modes.shape[0] == MODES and not modes[..., 3:].any()
        wanted = by(branch.means.double().numpy(), mesh, field).reshape(52, -1)
        fields[name] = wanted, model.beyond.mix.double().numpy() @ modes[..., :3].reshape(MODES, -1).double().numpy()
    wanted, found = (np.concatenate(parts, axis=1) for parts in zip(*fields.values(), strict=True))
    size = np.linalg.norm(wanted, axis=1)
    error = np.linalg.norm(wanted - found, axis=1)[size > 0] / size[size > 0]
    assert error.mean() < 0.1 and error.max() < 0.3


def test_learned_bases_are_none_the_worse(frames):
    model = initial_model(frames, SMALL, seed=0).eval().requires_grad_(False)
    counts = {name: model.branch(name).count for name in BRANCHES}
    before = {name: model.branch(name).bases.clone() for name in BRANCHES}
    add_prior(model, frames.track)
    for name in BRANCHES:
        branch = model.branch(name)
        assert torch.equal(branch.learned[:, : counts[name]], before[name])
        assert not branch.learned[:, counts[name] :].any()  # curtain and wall
    model.extend(model.beyond)  # again: in place of what was there
    assert model.branch("face").bases.shape[0] == SMALL.face.bases + MODES


def test_opened_lips_show_the_dark_and_closed_ones_do_not(frames, model):
    """The curtain lies above and below the lips at rest, and between them when the jaw is open."""
    mesh = model.beyond.mesh.numpy()
    top, bottom = mesh[list(UPPER_LIP), 1].mean(), mesh[list(LOWER_LIP), 1].mean()
    curtain = model.branch("mouth").means[:, 2] < mesh[list(UPPER_LIP + LOWER_LIP), 2].mean() - CAVITY_DEPTH_CM
    rest, wide = places(model, slider(model, frames, "mouthFunnel", [0.0, 1.0]), "mouth")[:, curtain, 1]
    assert not ((rest > bottom - 1) & (rest < top + 0.5)).any()
    opened = top + facial_motion()[BLENDSHAPE_INDEX["mouthFunnel"]][list(LOWER_LIP), 1].mean()
    between = wide[(wide < top) & (wide > opened)].sort().values
    assert len(between) and float(between.diff().max()) < 0.5
    assert float(model.branch("mouth").colors[-1].max()) < 0.2


def test_the_file_keeps_the_prior(frames, model, saved):
    loaded = load_avatar_file(saved(model, frames, SMALL.driver_hidden))[0]
    for name in ("mouthFunnel", "jawOpen", "eyeBlinkLeft"):
        motion = slider(model, frames, name, [0.5, 1.0])
        for branch in CARRIED:  # learned positions are stored in half precision
            torch.testing.assert_close(places(loaded, motion, branch), places(model, motion, branch), atol=5e-3, rtol=0)
    tensors = load_file(saved(model, frames, SMALL.driver_hidden))
    assert sum(t.nbytes for key, t in tensors.items() if key.startswith("beyond.")) < 200_000
    assert tensors["face.basis_means"].shape[0] == SMALL.face.bases


def test_a_file_without_the_prior_loads_and_stays_limited(frames, saved):
    model = initial_model(frames, SMALL, seed=0).eval().requires_grad_(False)
    model.measure_limits(frames.training_motion())
    loaded = load_avatar_file(saved(model, frames, SMALL.driver_hidden))[0]
    assert loaded.beyond is None
    motion = slider(model, frames, "mouthFunnel", [1.0])
    assert torch.equal(loaded.weights(motion)["face"], model.weights(motion)["face"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.pop("beyond.field"),
        lambda t: t.update({"beyond.mesh": t["beyond.mesh"][:400].contiguous()}),
        lambda t: t.update({"beyond.field": t["beyond.field"][:, :, :2].contiguous()}),
        lambda t: t.update({"beyond.mesh": torch.zeros(478, 3)}),
        lambda t: t["beyond.mesh"].fill_(torch.inf),
    ],
)
def test_a_damaged_prior_is_one_clear_sentence(frames, model, saved, damage):
    path = saved(model, frames, SMALL.driver_hidden)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, header)
    with pytest.raises(UserError, match="damaged"):
        load_avatar_file(path)


def test_other_shapes_are_refused():
    with pytest.raises((TypeCheckError, ValueError)):
        Beyond(torch.zeros(468, 3), torch.zeros(52, 478, 3))


# --- carrying


def unit_field(landmarks: tuple[int, ...]) -> np.ndarray:
    """One coefficient that moves some landmarks up by a centimetre; the slot of jawOpen makes it the jaw's."""
    field = np.zeros((52, 478, 3))
    field[BLENDSHAPE_INDEX["jawOpen"], list(landmarks), 1] = 1.0
    return field


def test_skin_follows_its_landmark_and_the_air_does_not():
    head = mean_head()
    skin = np.setdiff1d(np.arange(468), LEFT_EYE)
    field = landmark_prior().astype(np.float64)
    np.testing.assert_allclose(carried_by_face(head[skin], head, field), field[:, skin], atol=0.02)
    far = carried_by_face(np.array([[0.0, 40.0, 0.0]]), head, field)
    assert np.abs(far).max() < 1e-6


def test_lips_part_without_a_smear():
    head = mean_head()
    lower = unit_field(LOWER_LIP)
    gap, step = (head[list(UPPER_LIP)] + head[list(LOWER_LIP)][::-1]) / 2, np.array([0, 0.02, 0])
    points = np.concatenate([gap + step, gap - step])
    moved = carried_by_face(points, head, lower)[BLENDSHAPE_INDEX["jawOpen"], :, 1]
    assert np.abs(moved[:3]).max() < 0.01 and moved[3:].min() > 0.5


def test_the_eyeball_follows_the_iris_and_not_the_lid():
    head = mean_head()
    centre = head[list(LEFT_EYE), :].mean(axis=0, keepdims=True)
    slot = BLENDSHAPE_INDEX["jawOpen"]
    assert abs(carried_by_face(centre, head, unit_field(LEFT_EYE))[slot, 0, 1]) < 0.01
    assert carried_by_face(centre, head, unit_field(LEFT_IRIS))[slot, 0, 1] == pytest.approx(1.0)


def test_upper_teeth_stay_and_lower_teeth_go_with_the_jaw():
    head = mean_head()
    lip = head[list(LOWER_LIP)].mean(axis=0)
    teeth = lip + np.array([[0, 0.3, -0.8], [0, -0.4, -0.8]])
    moved = carried_in_mouth(teeth, head, facial_motion())
    assert not moved[:, 0].any()
    assert moved[BLENDSHAPE_INDEX["jawOpen"], 1, 1] < -2
    assert not moved[BLENDSHAPE_INDEX["mouthSmileLeft"]].any()  # teeth do not smile


def test_an_opening_jaw_takes_the_throat_along():
    """Skin of the neck that lies behind the opening would show before the teeth."""
    head = mean_head()
    throat = np.array([[0.0, head[CHIN, 1], 1.0]])
    assert carried_by_face(throat, head, facial_motion())[BLENDSHAPE_INDEX["jawOpen"], 0, 1] < -2
    assert not carried_by_face(throat - np.array([0, 4, 0]), head, unit_field(LOWER_LIP)).any()


# --- anatomy


def test_every_coefficient_but_the_tongue_moves_something_a_plausible_way():
    field = facial_motion()
    most = np.linalg.norm(field, axis=2).max(axis=1)
    still = [name for name, size in zip(BLENDSHAPES, most, strict=True) if size < 0.2]
    assert still == ["tongueOut"] and most.max() < 3.2


def test_what_was_regressed_stays_as_it_is_and_sides_mirror():
    field, regressed = facial_motion(), landmark_prior()
    added = {*BUMPS, "jawForward", "eyeWideLeft", "eyeWideRight"}
    for name in set(BLENDSHAPES) - added:
        np.testing.assert_allclose(field[BLENDSHAPE_INDEX[name]], regressed[BLENDSHAPE_INDEX[name]])
    for name in set(BUMPS) - {"cheekPuff"}:
        assert not regressed[BLENDSHAPE_INDEX[name]].any()
    head = mean_head()
    mirror = np.linalg.norm(head[:468, None] - (head[:468] * [-1, 1, 1])[None], axis=-1).argmin(axis=1)
    for name in ("noseSneer", "cheekSquint"):
        left, right = (field[BLENDSHAPE_INDEX[f"{name}{side}"], :468] for side in ("Left", "Right"))
        np.testing.assert_allclose(left, right[mirror] * [-1, 1, 1], atol=0.02)
