"""`NAME.avatar`: the one owner of the file format. A safetensors container with a JSON header, no pickle.

Header (safetensors metadata): key ``avatar`` holds one JSON object, see `Metadata`; ``schema`` in it is SCHEMA.

Tensors, for each branch B of face, mouth, torso (N Gaussians, K bases):

=======================  ============  ========  ==========================================================
name                     shape         dtype     meaning
=======================  ============  ========  ==========================================================
B.means                  N 3           float32   canonical position, head space, cm
B.quats                  N 4           float32   wxyz, not normalised
B.log_scales             N 3           float32   natural log of the standard deviation in cm
B.colors                 N 3           float32   sRGB-encoded, 0..1 (may overshoot)
B.opacity_logits         N             float32
B.skin_logits            N             float32   sigmoid = weight of the head pose, the rest is the torso's
B.basis_means            K N 3         float16   cm, added times the basis weight
B.basis_rest             K N 11        int8      quats 4, log_scales 3, colors 3, opacity_logits 1, in steps of ...
B.basis_steps            K N           float16   ... this times the column's unit (`model.gaussians.BASIS_UNITS`)
drivers.B.*              see motion    float32   driver to basis weights
features.*               see motion    float32   the person's statistics that normalise a driver
features.lids            2 7 2         float32   how the eyes close, see lids; absent where the clip does not show it
features.code_mean       20            float32   appearance codes (conventions.CODES) of the mean motion, and
features.code_map        20 64         float32   how they follow from it, see motion, within
features.code_range      2 20          float32   the range they have in the clip; early files lack all three
limits.B.features        2 D           float32   lowest and highest driver feature that passes unchanged, see limits
limits.B.middle          K             float32   of the ellipsoid of basis weights that pass unchanged, and
limits.B.whitening       K K           float32   what makes it a unit ball; early files: ranges, or no limits at all
beyond.mesh              478 3         float32   landmarks of the mean expression, head space, cm, and their motion
beyond.field             52 478 3      float16   per unit of each coefficient, cm, see beyond; early files lack both
backdrop                 H W 3         uint8     what is behind the person
person.*, speech.*                               statistics of the person's motion; audio-to-expression model
encoded.*                                        another one, which also hears a speech encoder of the user's own
motion.times             T             float64   s; the clip's own motion (files of early versions lack motion.*)
motion.coefficients      T 52          uint8     0..255 for 0..1
motion.head, .torso      T 6           float32   camera_from_*: rotation vector (rad), translation (cm)
motion.codes             T 20          float16   appearance codes of the clip's own frames
=======================  ============  ========  ==========================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar.conventions import BLENDSHAPES, BRANCHES
from avatar.errors import UserError, one_line
from avatar.files import save_tensors, under
from avatar.model.beyond import Beyond
from avatar.model.compose import to_bytes
from avatar.model.gaussians import BASIS_COLUMNS, BASIS_UNITS, BASIS_WIDTH, CANONICAL, Branch
from avatar.model.model import AvatarModel
from avatar.model.motion import DriverFeatures
from avatar.types import Camera, Provenance

SCHEMA = 2
SUFFIX = ".avatar"
Migration = Callable[[dict[str, Any], dict[str, Tensor]], None]


def _pack_bases(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Schema 1 kept all columns of the bases in half precision, each in its own unit."""
    for name in BRANCHES:
        tensors |= packed_bases(name, tensors.pop(f"{name}.bases").float() / torch.tensor(BASIS_UNITS))


MIGRATIONS: dict[int, Migration] = {1: _pack_bases}
"""From a schema to the next: changes metadata and tensors in place."""

MEANS = BASIS_COLUMNS[0][1]
STEPS = 127

FAR = 1e6
"""What no number of an avatar comes near; beyond some 1e19 squares of float32 are infinite."""
LOG_SCALE_FAR = 40.0
"""The same for the logarithm of a size: e^40 cm squared is still finite, and e^-40 cm above zero."""
SPEECH_FAR = 4096
"""The same for a setting of the speech model, such as its layers."""


@dataclass(frozen=True)
class Metadata:
    """The JSON header."""

    camera: Camera
    provenance: Provenance
    fps: float
    """Frame rate of the clip, the default of what is rendered from this avatar."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Held-out scores by row, as in report.json."""
    speech: dict[str, Any] | None = None
    """Configuration of the speech model; None when the clip had no sound."""
    encoded: dict[str, Any] | None = None
    """``settings`` of the speech model that also hears a speech encoder; ``name`` and ``sha256`` of that encoder."""
    reference_pose: dict[str, list[list[float]]] = field(default_factory=dict)
    """camera_from_head and camera_from_torso (3x4) of the clip's reference frame: where the avatar rests."""
    hidden: int = 32
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        body = {
            "schema": SCHEMA,
            "units": {"length": "cm", "time": "s", "colour": "sRGB-encoded 0..1"},
            "axes": "head: x image right, y up, z out of the face; camera: OpenCV x right, y down, z forward",
            "coefficients": list(BLENDSHAPES),
            "branches": list(BRANCHES),
            **dataclasses.asdict(self),
        }
        return json.dumps(body, allow_nan=False)


def save_avatar(path: Path, model: AvatarModel, metadata: Metadata, extra: dict[str, Tensor]) -> None:
    """Writes the file, whole or not at all.

    Args:
        model: one with linear bases (a `hashgrid` is baked first, see `model.bake`).
        extra: tensors of the speech models, the person's statistics and the clip's motion, under ``speech.``,
            ``encoded.``, ``person.`` and ``motion.``.
    Raises:
        UserError: the place cannot be written.
        ValueError: a `hashgrid` that is not baked.
    """
    if model.fields:
        raise ValueError("a file holds linear bases; bake the hashgrid first")
    tensors: dict[str, Tensor] = {}
    for name in BRANCHES:
        branch = model.branch(name)
        for key in CANONICAL:
            tensors[f"{name}.{key}"] = getattr(branch, key).detach()
        tensors |= packed_bases(name, branch.learned.detach())
    for prefix, module in (("drivers", model.drivers), ("features", model.features)):
        tensors |= {f"{prefix}.{key}": value for key, value in module.state_dict().items()}
    for name in BRANCHES:
        tensors |= {f"limits.{name}.{k}": v.float() for k, v in model.branch_limits(name).to_tensors().items()}
    if model.beyond is not None:
        tensors |= {"beyond.mesh": model.beyond.mesh, "beyond.field": model.beyond.field}
    tensors["backdrop"] = torch.from_numpy(to_bytes(model.backdrop))
    tensors |= extra
    save_tensors(path, tensors, {"avatar": metadata.to_json()})


def packed_bases(name: str, bases: Float[Tensor, "K N 14"]) -> dict[str, Tensor]:
    """Bases (in BASIS_UNITS) as the file keeps them.

    One step per Gaussian and basis, so that one that moves little keeps its precision beside one that moves a lot:
    pictures stay the same to above 80 dB, where one step per column and basis left 35 dB.
    """
    units = torch.tensor(BASIS_UNITS, device=bases.device)
    rest = bases[..., MEANS:]
    steps = (rest.abs().amax(dim=-1) / STEPS).half()
    # rounded up to what half can hold, so that no number exceeds STEPS steps
    steps = torch.where(steps.float() * STEPS < rest.abs().amax(dim=-1), steps * 1.001 + 1e-7, steps)
    whole = (rest / steps.float().clamp_min(1e-12).unsqueeze(-1)).round().clamp(-STEPS, STEPS)
    return {
        f"{name}.basis_means": (bases[..., :MEANS] * units[:MEANS]).half(),
        f"{name}.basis_rest": whole.to(torch.int8),
        f"{name}.basis_steps": steps,
    }


def unpacked_bases(name: str, tensors: dict[str, Tensor]) -> Float[Tensor, "K N 14"]:
    means, rest, steps = (tensors[f"{name}.basis_{part}"] for part in ("means", "rest", "steps"))
    if means.ndim != 3 or rest.shape != (*means.shape[:2], BASIS_WIDTH - MEANS) or steps.shape != means.shape[:2]:
        raise ValueError(f"the bases of {name} have shapes {tuple(means.shape)} and {tuple(rest.shape)}")
    return torch.cat(
        [means.float() / torch.tensor(BASIS_UNITS[:MEANS]), rest.float() * steps.float().unsqueeze(-1)], -1
    )


def load_avatar_file(path: Path) -> tuple[AvatarModel, Metadata, dict[str, Tensor]]:
    """Reads and validates a file: the model, its header, and the tensors of `save_avatar`'s `extra`.

    Raises:
        UserError: missing, not an avatar, damaged, or of a newer schema.
    """
    header, tensors = _read(path)
    schema = header.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise UserError(f"{path} is damaged: its header names no schema version; fit the clip again.")
    if schema > SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, newer than this program's {SCHEMA}; update with 'pip install -U avatar'."
        )
    try:
        for version in range(schema, SCHEMA):
            MIGRATIONS[version](header, tensors)
        metadata = _metadata(header)
        model = _model(metadata, tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); fit the clip again or restore a copy.") from None
    others = ("speech.", "encoded.", "person.", "motion.")
    extra = {key: value for key, value in tensors.items() if key.startswith(others)}
    return model, metadata, extra


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"There is no avatar file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("avatar")
            if text is None:
                raise UserError(f"{path} is a safetensors file but not an avatar.")
            header = json.loads(text, parse_float=_finite, parse_constant=_finite)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no dict
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not an avatar file or is damaged ({one_line(error)}).") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is damaged: its header is not an object.")
    return header, tensors


def _finite(text: str) -> float:
    """A number of the header; Python's JSON would also read NaN and Infinity."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"its header holds the number {text}")
    return value


def _metadata(header: dict[str, Any]) -> Metadata:
    if header["coefficients"] != list(BLENDSHAPES):
        raise ValueError("unknown coefficient names")
    known = {f.name for f in dataclasses.fields(Metadata)}
    values = {key: value for key, value in header.items() if key in known}
    camera = Camera(**values.pop("camera"))
    if not (0 < camera.width <= 8192 and 0 < camera.height <= 8192 and 0 < camera.focal_px < FAR):
        raise ValueError("impossible camera")
    if max(abs(camera.cx), abs(camera.cy)) >= FAR:
        raise ValueError("impossible camera")
    provenance = Provenance(**values.pop("provenance"))
    values["notes"] = tuple(values.get("notes", ()))
    metadata = Metadata(camera=camera, provenance=provenance, **values)
    if not (math.isfinite(metadata.fps) and 0 < metadata.fps < 1000 and 0 < metadata.hidden <= 4096):
        raise ValueError("impossible frame rate or driver width")
    for settings in (metadata.speech, metadata.encoded and metadata.encoded["settings"]):
        if any(not abs(value) <= SPEECH_FAR for value in (settings or {}).values()):
            raise ValueError("impossible settings of the speech model")
    if metadata.encoded is not None and not all(isinstance(metadata.encoded[k], str) for k in ("name", "sha256")):
        raise ValueError("no name of the speech encoder")
    for name in ("camera_from_head", "camera_from_torso"):
        if tuple(torch.tensor(metadata.reference_pose[name]).shape) != (3, 4):
            raise ValueError(f"reference pose {name} is not 3x4")
    return metadata


def _model(metadata: Metadata, tensors: dict[str, Tensor]) -> AvatarModel:
    for key, value in tensors.items():
        if value.is_floating_point() and not bool((value.abs() <= FAR).all()):
            raise ValueError(f"{key} holds values that are not finite or far too large")
    branches = {name: _branch(name, tensors) for name in BRANCHES}
    camera, plate = metadata.camera, tensors["backdrop"]
    if plate.dtype != torch.uint8 or tuple(plate.shape) != (camera.height, camera.width, 3):
        raise ValueError("backdrop of another size than the camera's picture")
    features = DriverFeatures.from_tensors(under("features.", tensors))
    model = AvatarModel(camera, branches, features, plate.float() / 255.0, metadata.hidden)
    model.drivers.load_state_dict(under("drivers.", tensors))
    for name in BRANCHES:
        found = {key: value.float() for key, value in under(f"limits.{name}.", tensors).items()}
        model.branch_limits(name).load_tensors(found, model.features.width(name), model.branch(name).basis_count)
    if any(key.startswith("beyond.") for key in tensors):
        model.extend(Beyond(tensors["beyond.mesh"], tensors["beyond.field"]))
    return model.eval().requires_grad_(False)


def _branch(name: str, tensors: dict[str, Tensor]) -> Branch:
    bases = unpacked_bases(name, tensors)
    branch = Branch(bases.shape[1], bases.shape[0])
    state = {key: tensors[f"{name}.{key}"] for key in CANONICAL}
    if bool((state["log_scales"].abs() > LOG_SCALE_FAR).any()):
        raise ValueError(f"{name}.log_scales holds values that are far too large")
    state["bases"] = bases
    branch.load_state_dict(state)
    return branch
