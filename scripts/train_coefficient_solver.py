"""Trains the built-in coefficient solver and the landmark prior from videos, with Google's Face Landmarker as teacher.

    python scripts/train_coefficient_solver.py --teacher face_landmarker.task --videos FOLDER [FOLDER ...]

Every video is taken for one person. Pairs (mesh landmarks, teacher's coefficients) come from

1. the videos themselves and warped copies of them: turned, scaled, mirrored, with smoothly changed proportions of the
   face and changed light, each warp held for a stretch of frames, so that both networks see "new people";
2. the teacher's coefficient network queried directly with perturbed landmarks: one and the same displacement
   (expressions of others, other proportions, turns, noise) is added to what both networks saw.

The student sees the mesh landmarks only. Whole videos are held out in turn to measure it; the shipped weights are then
trained on all of them. Needs `ai-edge-litert` besides the project's own requirements; run it from the project's root.
Writes avatar/track/data/coefficients.safetensors, landmark_prior.safetensors and the noise in mesh.safetensors.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import tyro

from avatar.conventions import BLENDSHAPES

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".m4v"}
REAL_SHARE = 0.2
"""Share of the training samples that are real pairs; more of them overfits to the few people."""
SCALE_CM = 1.0
"""Unit of the upright landmarks that the student reads (centimetres on the mean head)."""
RIDGE = 10.0
"""Of the regression that the student is compared with: the best of 0.1, 1, 10, 100 and 1000."""
STRETCH = 24
"""Consecutive frames that share one warp."""
WORKING_SIDE = 384
"""Side of the head crops both networks see, px."""
TEACHER_POINTS = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80, 81,
    82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153, 154,
    155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263,
    267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321,
    323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387,
    388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)  # fmt: skip
"""The landmarks the teacher's coefficient network reads, in its order (MediaPipe's face_blendshapes_graph.cc)."""


@dataclass
class Options:
    """What to train from and where to put it."""

    videos: list[Path]
    """Videos, or folders of videos, each showing one person."""
    teacher: Path
    """Google's face_landmarker.task."""
    out: Path = Path("avatar/track/data")
    """Folder of the shipped weights."""
    cache: Path | None = None
    """Keeps the gathered pairs here (npz), and reuses them."""
    warps: int = 6
    """Warped copies of each video, in units of its own length, at most `stretches` each."""
    stretches: int = 60
    """Upper bound of warped stretches per video."""
    queries: int = 150_000
    """Direct queries of the teacher with perturbed landmarks."""
    steps: int = 6000
    """Training steps of the student."""
    seed: int = 0
    hold_out: bool = True
    """Measures the student on each video with all others as training data, and the teacher against itself."""


@dataclass
class Pairs:
    """Gathered samples: n of them."""

    person: list[int] = field(default_factory=list)
    """Index of the video."""
    stretch: list[int] = field(default_factory=list)
    """Index of the stretch of consecutive frames; negative ones are unwarped."""
    mesh: list[np.ndarray] = field(default_factory=list)
    """[478, 3] mesh landmarks, frame widths."""
    teacher: list[np.ndarray] = field(default_factory=list)
    """[478, 3] the teacher's own landmarks, frame widths."""
    coefficients: list[np.ndarray] = field(default_factory=list)
    """[52]."""


def find_videos(paths: list[Path]) -> list[Path]:
    """Video files named or inside the named folders."""
    found: list[Path] = []
    for path in paths:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise SystemExit("no videos found: name videos or folders that hold them")
    return found


def head_crops(video: Path) -> Iterator[np.ndarray]:
    """Frames cut to a square around the face of the first frame that shows one, WORKING_SIDE px."""
    import av
    import cv2
    import mediapipe

    square = None
    with av.open(str(video)) as container, mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True) as finder:
        for decoded in container.decode(container.streams.video[0]):
            frame = decoded.to_ndarray(format="rgb24")
            height, width = frame.shape[:2]
            if square is None:
                found = finder.process(frame).multi_face_landmarks
                if not found:
                    continue
                points = np.array([(p.x * width, p.y * height) for p in found[0].landmark])
                low, high = points.min(0), points.max(0)
                side = int(min(2.4 * (high - low).max(), height, width))
                corner = np.clip((low + high) / 2 - side * np.array([0.5, 0.45]), 0, [width - side, height - side])
                square = (*corner.astype(int), side)
            left, top, side = square
            yield cv2.resize(frame[top : top + side, left : left + side], (WORKING_SIDE, WORKING_SIDE),
                             interpolation=cv2.INTER_AREA)  # fmt: skip


class Warp:
    """A random, smooth change of picture and light, the same for every frame of a stretch."""

    def __init__(self, rng: np.random.Generator) -> None:
        import cv2

        self._cv2, self._rng, side = cv2, rng, WORKING_SIDE
        y, x = (np.mgrid[0:side, 0:side].astype(np.float32) + 0.5) / side - 0.5
        angle, zoom = np.radians(rng.normal(0, 8)), np.exp(rng.normal(0, 0.1))
        stretch = np.exp(rng.normal(0, 0.07))
        mirror = rng.choice([-1, 1])
        linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = linear @ np.diag([mirror * stretch, 1 / stretch]) / zoom
        u = linear[0, 0] * x + linear[0, 1] * y + rng.normal(0, 0.03)
        v = linear[1, 0] * x + linear[1, 1] * y + rng.normal(0, 0.03)
        for cells, amount in ((4, 0.02), (8, 0.008)):
            bend = rng.normal(0, amount, (cells, cells, 2)).astype(np.float32)
            bend = cv2.resize(bend, (side, side), interpolation=cv2.INTER_CUBIC)
            u, v = u + bend[..., 0], v + bend[..., 1]
        self._maps = [((m + 0.5) * side - 0.5).astype(np.float32) for m in (u, v)]
        light = rng.normal(0, 0.12, (3, 3)).astype(np.float32)
        self._light = np.exp(cv2.resize(light, (side, side), interpolation=cv2.INTER_CUBIC))[..., None]
        self._gain = np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
        self._gamma, self._blur, self._noise = (
            np.exp(rng.normal(0, 0.15)),
            rng.choice([0, 0, 0.7, 1.2]),
            rng.choice([0, 2, 5]),
        )

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The frame through the warp."""
        cv2 = self._cv2
        out = cv2.remap(frame, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32) / 255
        out = np.clip(out * self._light * self._gain, 0, 1) ** self._gamma * 255
        if self._blur:
            out = cv2.GaussianBlur(out, (0, 0), self._blur)
        if self._noise:
            out = out + self._rng.normal(0, self._noise, out.shape)
        return out.clip(0, 255).astype(np.uint8)


def gather(videos: list[Path], options: Options) -> dict[str, np.ndarray]:
    """Runs both networks over the videos and their warped copies."""
    from avatar.track.detect import FaceMesh

    rng = np.random.default_rng(options.seed)
    pairs, number = Pairs(), 0
    with open_teacher(options.teacher) as teacher:
        for person, video in enumerate(videos):
            frames = list(head_crops(video))
            count = min(options.stretches, max(8, options.warps * len(frames) // STRETCH))
            runs: list[tuple[int, list[np.ndarray]]] = [(-1 - person, frames)]
            for _ in range(count):
                number += 1
                start = int(rng.integers(0, max(1, len(frames) - STRETCH)))
                warp = Warp(rng)
                runs.append((number, [warp(f) for f in frames[start : start + STRETCH : 2]]))
            for stretch, run in runs:
                with closing(FaceMesh()) as mesh:
                    for frame in run:
                        _add_pair(pairs, person, stretch, frame, mesh, teacher)
            print(f"{video.name}: {len(pairs.person)} pairs so far", flush=True)
    return {name: np.array(getattr(pairs, name)) for name in ("person", "stretch", "mesh", "teacher", "coefficients")}


def _add_pair(pairs: Pairs, person: int, stretch: int, frame: np.ndarray, mesh, teacher) -> None:
    found, taught = mesh(frame).landmarks, ask(teacher, frame)
    if found is None or taught is None:
        return
    pairs.person.append(person)
    pairs.stretch.append(stretch)
    pairs.mesh.append(found / WORKING_SIDE)
    pairs.teacher.append(taught[0])
    pairs.coefficients.append(taught[1])


def open_teacher(bundle: Path):
    """Google's Face Landmarker; close it after use."""
    from mediapipe.tasks.python import BaseOptions, vision

    return vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(bundle)), output_face_blendshapes=True,
            running_mode=vision.RunningMode.IMAGE,
        )
    )  # fmt: skip


def ask(teacher, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The teacher's landmarks [478, 3], frame widths, and coefficients [52] of one picture; None without a face."""
    import mediapipe

    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
    result = teacher.detect(picture)
    if not result.face_blendshapes:
        return None
    scores = {c.category_name: c.score for c in result.face_blendshapes[0]}
    landmarks = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]], np.float32)
    return landmarks, np.array([scores.get(n, 0.0) for n in BLENDSHAPES], np.float32)


class CoefficientTeacher:
    """The teacher's coefficient network on its own: 146 landmarks in the picture to 52 coefficients."""

    def __init__(self, bundle: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with zipfile.ZipFile(bundle) as models:
            content = models.read("face_blendshapes.tflite")
        self._net = Interpreter(model_content=content, num_threads=1)
        self._net.allocate_tensors()
        self._input, self._output = (
            self._net.get_input_details()[0]["index"],
            self._net.get_output_details()[0]["index"],
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """TEACHER_POINTS in any upright picture [n, 146, 2] to [n, 52] in the order of BLENDSHAPES."""
        out = np.zeros((len(points), len(BLENDSHAPES)), np.float32)
        for row, face in zip(out, points, strict=True):
            self._net.set_tensor(self._input, np.ascontiguousarray(face[None], np.float32))
            self._net.invoke()
            row[:-1] = self._net.get_tensor(self._output)[1:]  # its first output is "neutral"
        return out


class Correction:
    """What the teacher would have seen instead of the mesh: a ridge regression between the two sets of landmarks.

    The two landmark networks differ by a few per cent of the face; the teacher's coefficients are sensitive to that.
    """

    def __init__(self, pairs: dict[str, np.ndarray], people: list[int]) -> None:
        from avatar.track.coefficients import upright

        kept = np.isin(pairs["person"], people)
        points = list(TEACHER_POINTS)
        seen = upright(pairs["mesh"][kept].astype(np.float64), pairs["mesh"][kept].astype(np.float64))[:, points]
        wanted = upright(pairs["teacher"][kept].astype(np.float64), pairs["mesh"][kept].astype(np.float64))[:, points]
        inputs, outputs = seen.reshape(len(seen), -1), (wanted - seen).reshape(len(seen), -1)
        self.mean, self.offset = inputs.mean(0), outputs.mean(0)
        # strength from held-out people: 30 to 3000 are within 0.01 of each other in correlation
        normal = (inputs - self.mean).T @ (inputs - self.mean) + 300 * SCALE_CM**2 * np.eye(inputs.shape[1])
        self.matrix = np.linalg.solve(normal, (inputs - self.mean).T @ (outputs - self.offset))

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """[n, 146, 2] upright mesh points to the teacher's, [n, 146, 2]."""
        flat = seen.reshape(len(seen), -1)
        return seen + ((flat - self.mean) @ self.matrix + self.offset).reshape(seen.shape)


def perturbed(pairs: dict[str, np.ndarray], people: list[int], count: int, seed: int):
    """Mesh landmarks with new expressions, proportions and turns.

    What two frames of one person differ in (expression, upper and lower face apart) and what two people's means differ
    in (identity) is added to a third frame in the head's own axes, which is then turned a little.

    Returns:
        mesh [count, 478, 3], the same without the added expression, and that expression (head space, cm).
    """
    from avatar.geometry import matrix_from_rotvec
    from avatar.track.coefficients import frontal
    from avatar.track.mesh import RIGID, mean_head

    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(np.isin(pairs["person"], people))
    seen = pairs["mesh"][kept].astype(np.float64)
    front = frontal(seen)
    person, stretch = pairs["person"][kept], pairs["stretch"][kept]
    runs = [r for r in (np.flatnonzero(stretch == s) for s in np.unique(stretch)) if len(r) >= 4]
    chance = np.array([1 / np.sum(person == person[r[0]]) for r in runs]) * [len(r) for r in runs]
    chance = chance / chance.sum()
    run_of = {int(i): k for k, r in enumerate(runs) for i in r}
    means = np.array([front[r].mean(0) for r in runs])
    head, rigid = mean_head(), list(RIGID)
    lower = 1 / (1 + np.exp((head[:, 1] + 2.0) / 0.8))[:, None]  # 1 on mouth and jaw, 0 above the nose
    turn = _turns(seen, front)
    scale = np.sqrt(_spread(seen[:, rigid]) / _spread(head[None, rigid]))
    mesh = np.zeros((count, 478, 3), np.float32)
    plain, change = np.zeros_like(mesh), np.zeros_like(mesh)
    more = matrix_from_rotvec(rng.normal(0, [0.12, 0.2, 0.05], (count, 3)) * (rng.random((count, 1)) < 0.5))
    for k, own in enumerate(rng.choice(len(runs), count, p=chance)):
        s = int(rng.choice(runs[own]))
        move = np.zeros((478, 3))
        for part in (lower, 1 - lower):
            if rng.random() < 0.75:
                a, b = rng.choice(runs[rng.choice(len(runs), p=chance)], 2, replace=False)
                move += rng.uniform(0.3, 1.8) * part * (front[a] - front[b])
        other = means[rng.integers(len(runs))] - means[run_of[s]]
        still = front[s] * np.exp(rng.normal(0, 0.02, 3)) + rng.normal(0, 0.5) * other + rng.normal(0, 0.01, (478, 3))
        carried = (turn[s] @ more[k] * scale[s]).T
        mesh[k], plain[k], change[k] = (still + move) @ carried, still @ carried, move
    return mesh, plain, change


def _turns(points: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Rotations that carry frontal points back to how they were seen. [n, 3, 3]"""
    from avatar.geometry import nearest_rotation

    middle, front_middle = points.mean(1, keepdims=True), front.mean(1, keepdims=True)
    return nearest_rotation(np.swapaxes(points - middle, 1, 2) @ (front - front_middle))


def _spread(points: np.ndarray) -> np.ndarray:
    return ((points - points.mean(1, keepdims=True)) ** 2).sum((1, 2))


def train_student(feature: np.ndarray, target: np.ndarray, share: np.ndarray, steps: int, seed: int):
    """A four-layer network from features to the coefficients that ever move. Returns its arrays by name."""
    import torch

    torch.manual_seed(seed)
    outputs = np.flatnonzero(target.std(0) > 0.002)
    mean, scale = feature.mean(0), feature.std(0) + 0.01
    x = torch.from_numpy((feature - mean) / scale)
    y = torch.from_numpy(target[:, outputs])
    importance = 1 / (y.std(0) + 0.03)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 384), torch.nn.ReLU(), torch.nn.Linear(384, 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, len(outputs)),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    chance = torch.from_numpy(share / share.sum())
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    noise = torch.from_numpy(0.004 / scale)
    for _ in range(steps):
        pick = torch.multinomial(chance, 512, replacement=True)
        guess = torch.sigmoid(net(x[pick] + noise * torch.randn(512, x.shape[1])))
        loss = (torch.nn.functional.smooth_l1_loss(guess, y[pick], beta=0.05, reduction="none") * importance).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
    layers = [m for m in average.module.modules() if isinstance(m, torch.nn.Linear)]
    arrays = {"mean": mean, "scale": scale, "outputs": outputs.astype(np.int32)}
    for k, layer in enumerate(layers):
        arrays[f"weight{k}"], arrays[f"bias{k}"] = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return arrays


def apply_student(arrays: dict[str, np.ndarray], feature: np.ndarray) -> np.ndarray:
    """The student's coefficients [n, 52] for features [n, F]; the same arithmetic as the shipped solver."""
    hidden = (feature - arrays["mean"]) / arrays["scale"]
    layers = sum(1 for name in arrays if name.startswith("weight"))
    for k in range(layers):
        hidden = hidden @ arrays[f"weight{k}"].T + arrays[f"bias{k}"]
        hidden = np.maximum(hidden, 0) if k < layers - 1 else hidden
    out = np.zeros((len(feature), len(BLENDSHAPES)), np.float32)
    out[:, arrays["outputs"]] = 1 / (1 + np.exp(-hidden))
    return out


def fit_student(pairs: dict[str, np.ndarray], people: list[int], options: Options) -> dict[str, np.ndarray]:
    """Trains the student on the given people: mostly answered queries, and the real pairs."""
    from avatar.track.coefficients import upright

    points = list(TEACHER_POINTS)
    teacher, correct = CoefficientTeacher(options.teacher), Correction(pairs, people)
    kept = np.isin(pairs["person"], people)
    extra, _, _ = perturbed(pairs, people, options.queries, options.seed)
    real, asked = (upright(m.astype(np.float64), m.astype(np.float64))[:, points] for m in (pairs["mesh"][kept], extra))
    feature = np.concatenate([real, asked]).reshape(-1, 2 * len(points)).astype(np.float32)
    target = np.concatenate([pairs["coefficients"][kept], teacher(correct(asked))])
    person = pairs["person"][kept]  # every person counts alike
    share = np.concatenate([
        REAL_SHARE / np.bincount(person)[person] / len(people), np.full(len(asked), (1 - REAL_SHARE) / len(asked)),
    ])  # fmt: skip
    arrays = train_student(feature, target, share.astype(np.float32), options.steps, options.seed)
    return {**arrays, "points": np.array(points, np.int32)}


def agreement(guess: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
    """Mean correlation over the active coefficients (deviation above 0.02), MAE over all 51, number of active ones."""
    active = np.flatnonzero(truth.std(0) > 0.02)
    correlation = [np.corrcoef(guess[:, k], truth[:, k])[0, 1] for k in active]
    return float(np.mean(correlation)), float(np.abs(guess - truth)[:, :-1].mean()), len(active)


def measure_unseen(pairs: dict[str, np.ndarray], videos: list[str], options: Options) -> str:
    """Holds out each video in turn, prints how well the student follows the teacher on it, and returns the summary."""
    from avatar.track.coefficients import features, steady_coefficients

    people = sorted(set(pairs["person"].tolist()))
    rows = []
    for person in people:
        arrays = fit_student(pairs, [p for p in people if p != person], options)
        own = np.flatnonzero((pairs["person"] == person) & (pairs["stretch"] < 0))
        guess = apply_student(arrays, features(pairs["mesh"][own].astype(np.float64), arrays["points"]))
        steady = steady_coefficients(guess, np.arange(len(own)) / 25, np.ones(len(own), bool))
        truth = pairs["coefficients"][own]
        rows.append((*agreement(guess, truth), *agreement(steady, truth)[:2]))
        print(f"{videos[person]}: correlation {rows[-1][0]:.3f} ({rows[-1][2]} active), MAE {rows[-1][1]:.4f}; "
              f"smoothed {rows[-1][3]:.3f}, {rows[-1][4]:.4f}", flush=True)  # fmt: skip
    mean = "mean: correlation {:.3f}, MAE {:.4f}; smoothed {:.3f}, {:.4f}".format(*np.mean(rows, 0)[[0, 1, 3, 4]])
    print(mean)
    return "each person held out in turn: " + "; ".join(f"{r[0]:.3f} / {r[1]:.4f}" for r in rows) + "; " + mean


def measure_ridge(pairs: dict[str, np.ndarray]) -> str:
    """What a plain ridge regression from the same features reaches on each person held out, every person counting
    alike. Prints it and returns the summary."""
    from avatar.track.coefficients import features

    feature = features(pairs["mesh"].astype(np.float64), np.array(TEACHER_POINTS)).astype(np.float64)
    person, real = pairs["person"], pairs["stretch"] < 0
    rows = []
    for held_out in sorted(set(person.tolist())):
        known = person != held_out
        share = 1 / np.bincount(person[known])[person[known]]
        share = (share / share.mean())[:, None]
        mean, usual = (np.average(v[known], axis=0, weights=share[:, 0]) for v in (feature, pairs["coefficients"]))
        normal = ((feature[known] - mean) * share).T @ (feature[known] - mean) + RIDGE * np.eye(feature.shape[1])
        answer = ((feature[known] - mean) * share).T @ (pairs["coefficients"][known] - usual)
        own = real & (person == held_out)
        guess = np.clip((feature[own] - mean) @ np.linalg.solve(normal, answer) + usual, 0, 1)
        rows.append(agreement(guess, pairs["coefficients"][own])[:2])
    summary = "a plain ridge: correlation {:.3f}, MAE {:.4f}".format(*np.mean(rows, axis=0))
    print(summary)
    return summary


def measure_teacher(videos: list[Path], options: Options) -> str:
    """How well the teacher agrees with itself about a picture and its mirror image: what it sees twice alike is all
    that anybody can learn of it. Prints it per video and returns the summary."""
    other = _counterparts()
    rows = []
    with open_teacher(options.teacher) as teacher:
        for number, video in enumerate(videos):
            both = [(ask(teacher, f), ask(teacher, f[:, ::-1])) for f in head_crops(video)]
            seen = [(plain[1], mirrored[1][other]) for plain, mirrored in both if plain and mirrored]
            truth, again = (np.array(part) for part in zip(*seen, strict=True))
            rows.append(agreement(again, truth))
            print(f"person {number + 1}, the teacher in the mirror: correlation {rows[-1][0]:.3f} "
                  f"({rows[-1][2]} active), MAE {rows[-1][1]:.4f}", flush=True)  # fmt: skip
    return "the teacher in the mirror: " + "; ".join(f"{r[0]:.3f} / {r[1]:.4f}" for r in rows)


def fit_prior(pairs: dict[str, np.ndarray], options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Landmark motion per unit coefficient [52, 478, 3] cm, and each landmark's noise over the steadiest's [478]."""
    from avatar.track.coefficients import frontal, upright

    people = sorted(set(pairs["person"].tolist()))
    teacher, correct = CoefficientTeacher(options.teacher), Correction(pairs, people)
    mesh, plain, change = perturbed(pairs, people, min(options.queries, 40_000), options.seed + 1)
    points = list(TEACHER_POINTS)
    after, before = (
        teacher(correct(upright(m, m)[:, points])) for m in (mesh.astype(np.float64), plain.astype(np.float64))
    )
    answer = after - before
    front = frontal(pairs["mesh"].astype(np.float64))
    moved, caused = [change.astype(np.float64)], [answer.astype(np.float64)]
    for stretch in np.unique(pairs["stretch"]):
        run = pairs["stretch"] == stretch
        moved.append(front[run] - front[run].mean(0))
        caused.append(pairs["coefficients"][run] - pairs["coefficients"][run].mean(0))
    moves, causes = np.concatenate(moved).reshape(-1, 478 * 3), np.concatenate(caused)
    observed = causes.std(0) > 0.01
    basis = causes[:, observed]
    ridge = 0.02**2 * len(basis) * np.eye(basis.shape[1])
    prior = np.zeros((len(BLENDSHAPES), 478 * 3))
    prior[observed] = np.linalg.solve(basis.T @ basis + ridge, basis.T @ moves)
    prior = _without_rigid(_symmetric(prior.reshape(-1, 478, 3)))
    real = pairs["stretch"] < 0
    left = []
    for person in people:
        own = real & (pairs["person"] == person)
        rest = (front[own] - front[own].mean(0)) - np.tensordot(
            pairs["coefficients"][own] - pairs["coefficients"][own].mean(0), prior, axes=1
        )
        left.append((rest[..., :2] ** 2).sum(-1).mean(0))
    noise = np.sqrt(np.median(left, axis=0))
    return prior.astype(np.float32), np.maximum(noise / np.percentile(noise, 15), 1).astype(np.float32)


def _symmetric(prior: np.ndarray) -> np.ndarray:
    """Averages each coefficient's motion with the mirror image of its counterpart's."""
    from avatar.track.mesh import mirror_points

    return (prior + prior[_counterparts()][:, mirror_points()] * [-1, 1, 1]) / 2


def _counterparts() -> list[int]:
    """Of each coefficient the one of the other side; itself in the middle."""
    swap = {"Left": "Right", "Right": "Left"}
    index = {n: i for i, n in enumerate(BLENDSHAPES)}
    return [
        next((index[n[: -len(s)] + o] for s, o in swap.items() if n.endswith(s)), i) for i, n in enumerate(BLENDSHAPES)
    ]


def _without_rigid(prior: np.ndarray) -> np.ndarray:
    """Removes the turn and shift of the rigid points from each motion: that is pose."""
    from avatar.track.mesh import RIGID, mean_head

    head = mean_head()
    x, y, z = head.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    turns = np.stack([np.stack([zero, -z, y], 1), np.stack([z, zero, -x], 1), np.stack([-y, x, zero], 1)])
    shifts = np.stack([np.stack([one, zero, zero], 1), np.stack([zero, one, zero], 1), np.stack([zero, zero, one], 1)])
    modes = np.concatenate([turns, shifts])
    rigid = list(RIGID)
    design = modes[:, rigid].reshape(6, -1).T
    solved = np.linalg.lstsq(design, prior[:, rigid].reshape(len(prior), -1).T, rcond=None)[0]
    return prior - np.tensordot(solved.T, modes, axes=1)


def main(options: Options) -> None:
    """Gathers pairs, measures on unseen people, trains on all, writes the weights."""
    from safetensors.numpy import load_file, save_file

    videos = find_videos(options.videos)
    if options.cache and options.cache.is_file():
        with np.load(options.cache) as stored:
            pairs = {name: stored[name] for name in stored.files}
    else:
        pairs = gather(videos, options)
        if options.cache:
            np.savez(options.cache, **pairs)
    source = {
        "source": "distilled from Google's Face Landmarker (Apache-2.0) by scripts/train_coefficient_solver.py",
        "trained_on": f"{len(videos)} people, {len(pairs['person'])} pairs, {options.queries} queries of the teacher",
    }
    if options.hold_out:
        source["repeatability"] = measure_teacher(videos, options)
        names = [f"person {k + 1}" for k in range(len(videos))]
        source["held_out"] = f"{measure_unseen(pairs, names, options)}; {measure_ridge(pairs)}"
        print("where the student reads the landmarks that the teacher saw:")
        same = {**pairs, "mesh": pairs["teacher"]}
        source["held_out_same_landmarks"] = f"{measure_unseen(same, names, options)}; {measure_ridge(same)}"
    prior, noise = fit_prior(pairs, options)
    save_file({"displacement": prior.astype(np.float16)}, options.out / "landmark_prior.safetensors", metadata=source)
    mesh = load_file(options.out / "mesh.safetensors")
    kept = {
        "source": "canonical face model of MediaPipe (Google, Apache-2.0), irises added; centimetres, MediaPipe's axes"
    }
    save_file({**mesh, "noise": noise}, options.out / "mesh.safetensors", metadata=kept)
    arrays = fit_student(pairs, sorted(set(pairs["person"].tolist())), options)
    shipped = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    save_file(shipped, options.out / "coefficients.safetensors", metadata=source)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
