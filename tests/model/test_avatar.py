"""The avatar as others use it: what `render` and `frames` refuse, and damaged files that show only in use."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar.errors import UserError
from avatar.model import Avatar
from avatar.model.avatar import checked_numbers
from avatar.speech import SpeechModel
from avatar.speech.model import SpeechModelConfig


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_coefficient_that_is_not_finite_is_named(small_avatar, value) -> None:
    with pytest.raises(UserError, match=f"^The coefficient 'jawOpen' must be a finite number, not {value}\\.$"):
        small_avatar.render({"mouthFunnel": 0.5, "jawOpen": value})
    with pytest.raises(UserError, match=r"^The coefficients must be 52 finite numbers, or some by name, not "):
        small_avatar.render(np.full(52, value, np.float32))


@pytest.mark.parametrize("name", ["camera_from_head", "camera_from_torso"])
def test_a_pose_that_is_not_finite_is_named(small_avatar, name) -> None:
    pose = small_avatar.rest_pose(name)
    pose[1, 3] = math.nan
    with pytest.raises(UserError, match=f"^{name} must be a 4 x 4 matrix of finite numbers, not "):
        small_avatar.render(**{name: pose})
    motion = small_avatar.rest_motion(np.zeros(2))
    getattr(motion, name)[1] = pose
    with pytest.raises(UserError, match=f"not all of its {name} are finite"):
        next(small_avatar.frames(motion))


@pytest.mark.parametrize(
    ("given", "shape"), [("x", ()), ("0.5", ()), (None, ()), ([1.0], ()), (np.zeros(51), (52,)), (np.eye(3), (4, 4)),
                         ([[1.0], [1.0, 2.0]], (4, 4)), (["a"] * 52, (52,))],
)  # fmt: skip
def test_what_is_no_number_or_of_another_shape_is_refused(given, shape) -> None:
    with pytest.raises(UserError, match=r"^It must be so, not "):
        checked_numbers(given, shape, "It must be so")


def test_numbers_of_any_kind_pass() -> None:
    for given in (1, True, np.float32(1.0), np.array(1), torch.tensor(1.0)):
        assert checked_numbers(given, (), "It must be so") == 1.0


MISUSE = """
import dataclasses, sys
import numpy as np
from avatar.errors import UserError
from avatar.model import Avatar

someone = Avatar.load(sys.argv[1])
rest = someone.rest_motion(np.zeros(2))

def said(use):
    try:
        use()
    except UserError as error:
        print(error)

for name, shape in (("coefficients", (2, 51)), ("coefficients", (3, 52)), ("camera_from_head", (2, 3, 4)),
                    ("camera_from_torso", (4, 4)), ("times", (2, 1)), ("codes", (2, 3))):
    said(lambda: next(someone.frames(dataclasses.replace(rest, **{name: np.zeros(shape, np.float32)}))))
for size in (48.0, "48"):
    said(lambda: someone.render(size=size))
print(someone.render(size=np.int64(48)).shape)
"""


def test_what_types_would_forbid_is_refused_in_a_sentence(small_avatar, tmp_path) -> None:
    """As others call it: in these tests jaxtyping is there first."""
    small_avatar.save(tmp_path / "someone.avatar")
    done = subprocess.run(
        [sys.executable, "-c", MISUSE, str(tmp_path / "someone.avatar")], capture_output=True, text=True, check=True
    )
    *shapes, fraction, text, drawn = done.stdout.splitlines()
    names = ["coefficients", "coefficients", "camera_from_head", "camera_from_torso", "times", "codes"]
    assert [line.split(" are of shape ")[0] for line in shapes] == [
        f"The motion cannot be drawn: its {name}" for name in names
    ]
    assert shapes[0].endswith("(2, 51), not (2, 52).")
    assert fraction == "The size of a picture is a whole number of px, not 48.0."
    assert text.endswith("not '48'.") and drawn == "(48, 48, 3)"


def test_finite_numbers_beyond_the_range_are_limited(small_avatar) -> None:
    far, farther = (small_avatar.render({"jawOpen": value}) for value in (1e6, 1e300))
    assert np.array_equal(far, farther)


def with_speech(someone: Avatar) -> Avatar:
    speech = SpeechModel(SpeechModelConfig(members=1, width=8, heads=1, memory_size=1)).eval()
    metadata = dataclasses.replace(someone.metadata, speech=speech.config_dict())
    return dataclasses.replace(someone, speech=speech, metadata=metadata)


def damage(path, change_header, change_tensors) -> None:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["avatar"])
    tensors = load_file(path)
    change_header(header)
    change_tensors(tensors)
    save_file(tensors, path, metadata={"avatar": json.dumps(header)})


def nothing(_) -> None:
    pass


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        *((lambda h, v=value: h["camera"].update(cx=v), nothing) for value in (None, "x", math.nan, 1e12)),
        *((lambda h, v=value: h["camera"].update(cy=v), nothing) for value in (None, "x", math.nan, -1e12)),
        *((lambda h, k=key: h["speech"].update({k: 0}), nothing) for key in ("width", "n_mels", "heads")),
        (lambda h: h["speech"].update(layers=10**9), nothing),
        (lambda h: h["speech"].update(gate_ramp_tokens=0), nothing),
        (lambda h: h.update(speech=[1]), nothing),
        (lambda h: h["provenance"]["extra"].update(note=math.nan), nothing),
        (nothing, lambda t: t.update({"person.blink_shape": torch.zeros(0)})),
        (nothing, lambda t: t["face.means"].fill_(1e30)),
        (nothing, lambda t: t["torso.log_scales"].fill_(1e30)),
        (nothing, lambda t: t["torso.log_scales"].fill_(400.0)),
        (nothing, lambda t: t["drivers.mouth.linear.weight"].fill_(-1e30)),
        (nothing, lambda t: t.update({"face.basis_means": t["face.basis_means"].float().fill_(1e30)})),
    ],
)  # fmt: skip
def test_damage_that_would_show_later_is_found_at_once(small_avatar, tmp_path, header, tensors) -> None:
    path = tmp_path / "x.avatar"
    with_speech(small_avatar).save(path)
    Avatar.load(path)
    damage(path, header, tensors)
    with pytest.raises(UserError, match="damaged"):
        Avatar.load(path)
