"""The tracking stage, read from top to bottom: `track()` turns a Capture into a Track.

Frames are read one at a time and six times over: for what needs no geometry (mesh, raw mask, backdrop samples), to
align the head to its own texture and then to its rigid points, to learn how this face looks, for what needs the
head's place (regions, torso), and for the codes of what is left.
Only landmarks, compressed masks and some hundred small faces stay in memory.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avatar.errors import UserError
from avatar.geometry import rigid
from avatar.progress import SILENT, Reporter
from avatar.track.appearance import refine_by_appearance
from avatar.track.backdrop import BackdropBuilder, Plate
from avatar.track.checks import CutDetector, hidden_frames, seconds_of, track_findings
from avatar.track.codes import appearance_codes
from avatar.track.coefficients import solve_coefficients, steady_coefficients
from avatar.track.detect import FaceMesh, Landmarker, MaskStore, PersonMask, second_person
from avatar.track.files import save_track
from avatar.track.matte import refine_matte, steadied
from avatar.track.mesh import SKIN_POINTS
from avatar.track.parallel import ahead, lately_read, side_by_side, single_threaded_libraries
from avatar.track.photometric import refine_poses
from avatar.track.prior import landmark_prior
from avatar.track.regions import ColourStatistics, RegionWriter, StoredRegions, head_frame, label_frame
from avatar.track.rigid import align_head
from avatar.track.smooth import bridge, whittaker
from avatar.track.solve import Poses, Solution, settle_head, smooth_poses, solve_clip
from avatar.track.torso import TorsoTracker, lift_motion
from avatar.types import Camera, Capture, Track

LEAST_FACE_SHARE = 0.5
"""A clip with a face in fewer frames than this cannot become an avatar."""
POSE_CUTOFF_HZ = 7.0
"""Head motion above this is noise: on real clips 8 Hz fits the pictures as well as no smoothing, 5 Hz worse."""
STILL_CUTOFF_HZ = 2.0
"""The same where the head holds still and all that moves is noise."""
EXPRESSION_CUTOFF_HZ = 3.0
"""Expression that carries the skin while the head is aligned: eyes and lips, the fast parts, take no part in that."""
MASK_SECONDS = 0.08
"""A person's outline is looked for this often; half of the frames at 25 per second. What changes by that is less than
what averaging over three frames does, and their flicker is less."""
TORSO_CUTOFF_HZ = 5.0
TORSO_SCALE_CUTOFF_HZ = 1.5
"""Leaning is slow; the scale of the torso is its least certain number."""


@dataclass(frozen=True)
class _FirstPass:
    """What the first reading of the frames leaves in memory."""

    landmarks: np.ndarray
    valid: np.ndarray
    masks: MaskStore
    backdrop: BackdropBuilder
    colours: ColourStatistics
    coefficients: np.ndarray | None
    crowded: np.ndarray
    cuts: list[int]


def track(capture: Capture, path: Path, reporter: Reporter = SILENT, face_landmarker: Path | None = None) -> Track:
    """Tracks the person of a clip and writes the result to `path` (whole or not at all).

    Args:
        capture: the decoded clip.
        path: the track file to write.
        reporter: says what happens and shows progress.
        face_landmarker: Google's face_landmarker.task; its coefficients are used where given.

    Raises:
        UserError: no face, a face in too few frames, two people, no mediapipe, an unusable model file.
    """
    with single_threaded_libraries():
        result = _track(capture, reporter, face_landmarker)
    save_track(result, path)
    return result


def _track(capture: Capture, reporter: Reporter, face_landmarker: Path | None) -> Track:
    first = _detect(capture, reporter, face_landmarker)
    valid, times = first.valid, np.asarray(capture.times, dtype=np.float64)
    with ThreadPoolExecutor(1) as beside:
        plating = beside.submit(first.backdrop.plate)
        solution = solve_clip(first.landmarks[valid], capture.size, landmark_prior())
        plate = plating.result()
    aligned, head, view, agreement = _aligned(capture, first, solution, reporter)
    faces, hidden = valid, hidden_frames(agreement, _mesh_error(solution, valid), valid)
    valid = faces & ~hidden
    camera = Camera(view.focal, capture.size / 2, capture.size / 2, capture.size, capture.size)
    coefficients = _coefficients(first, times, valid)
    found, coefficients = _explained(
        capture, head.neutral, view, _spread(aligned, faces), coefficients, valid, reporter
    )
    poses = smooth_poses(found, times, valid, POSE_CUTOFF_HZ, STILL_CUTOFF_HZ)
    camera_from_head = rigid(poses.rotation, poses.translation)
    landmarks = bridge(first.landmarks[..., :2].reshape(len(times), -1), times, valid).reshape(len(times), -1, 2)
    reference = _reference_frame(camera_from_head, coefficients, valid)
    regions, torso = _regions_and_torso(
        capture, first, plate, camera, camera_from_head, landmarks, valid, reference, reporter
    )
    with reporter.bar("coding how it looks", int(valid.sum())) as bar:
        codes = appearance_codes(
            capture.frames.__getitem__, regions, camera, head.neutral, camera_from_head, torso, times, valid, reference,
            capture.held_out_start, bar.advance,
        )  # fmt: skip
    return Track(
        camera=camera,
        times=times,
        valid=valid,
        camera_from_head=camera_from_head,
        camera_from_torso=torso,
        coefficients=coefficients.astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        neutral=head.neutral.astype(np.float32),
        regions=regions,
        backdrop=plate.colour,
        reference_frame=reference,
        findings=track_findings(times, faces, hidden, first.crowded, first.cuts),
        codes=codes,
    )


def _detect(capture: Capture, reporter: Reporter, face_landmarker: Path | None) -> _FirstPass:
    """First reading of the frames: networks, backdrop samples, colours of head and clothes."""
    count, size = len(capture.frames), capture.size
    landmarks = np.zeros((count, 478, 3), np.float32)
    valid = np.zeros(count, bool)
    coefficients = np.zeros((count, 52), np.float32) if face_landmarker else None
    similar: list[int] = []
    step = max(1, round(capture.fps * MASK_SECONDS))
    masked = -(-count // step)
    masks, backdrop, colours = MaskStore(step), BackdropBuilder(masked, size), ColourStatistics()
    cuts = CutDetector()
    landmarker = Landmarker(face_landmarker) if face_landmarker else None
    mesh, person = FaceMesh(), PersonMask()
    sampled = set(np.linspace(0, masked - 1, min(masked, 60)).round().astype(int).tolist())
    frames = lately_read(capture.frames)
    reading = side_by_side(
        count,
        lambda i: mesh.seen(frames(i)),
        lambda i: mesh.seen_mirrored(frames(i)),
        lambda i: None if i % step else person(frames(i)),
        lambda i: landmarker(frames(i)) if landmarker else None,
    )
    try:
        with reporter.bar("finding the face", count) as bar, closing(reading):
            for i, (faces, mirrored, mask, scores) in enumerate(reading):
                frame, found = frames(i), mesh.joined(faces, mirrored)
                similar.append(found.faces)
                cuts.add(frame)
                if found.landmarks is not None:
                    landmarks[i], valid[i] = found.landmarks, True
                if mask is not None:
                    masks.append(mask)
                    backdrop.add(i // step, frame, mask)
                    if found.landmarks is not None and i // step in sampled:
                        colours.add(frame, mask, head_frame(found.landmarks))
                if coefficients is not None:
                    valid[i] &= scores is not None
                    coefficients[i] = 0 if scores is None else scores
                bar.advance()
    finally:
        for network in (mesh, person, landmarker):
            if network is not None:
                network.close()
    crowded = np.array(similar) >= 2
    _check_faces(np.asarray(capture.times), valid, crowded)
    return _FirstPass(landmarks, valid, masks, backdrop, colours, coefficients, crowded, cuts.cuts())


def _check_faces(times: np.ndarray, valid: np.ndarray, crowded: np.ndarray) -> None:
    if not valid.any():
        raise UserError("There is no face in this clip: film one person from the front, with the face well lit.")
    if second_person(crowded, valid):
        raise UserError(
            f"There are two people in this clip (in {seconds_of(times, crowded)}): crop or film it so that only one "
            "face is seen."
        )
    if valid.mean() < LEAST_FACE_SHARE or valid.sum() < 3:
        raise UserError(
            f"There is a face in only {valid.mean():.0%} of this clip (no face in {seconds_of(times, ~valid)}): "
            "cut those parts out or film it again."
        )


def _spread(poses: Poses, valid: np.ndarray) -> Poses:
    """Poses of the valid frames put back among all frames (identity elsewhere)."""
    count = len(valid)
    rotation = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
    translation = np.zeros((count, 3))
    expression = np.zeros((count, poses.expression.shape[1]))
    rotation[valid], translation[valid], expression[valid] = poses.rotation, poses.translation, poses.expression
    return Poses(rotation, translation, expression)


def _aligned(capture: Capture, first: _FirstPass, solution: Solution, reporter: Reporter):
    """Second and third reading of the frames: poses (of the frames with a face) aligned to the person's own texture,
    then to the rigid points of the whole head, with the camera and the neutral head that go with them; and how much of
    the skin shows that texture in each of all frames [N, 2]."""
    indices = np.flatnonzero(first.valid)
    steady = whittaker(solution.poses.expression, np.asarray(capture.times)[indices], EXPRESSION_CUTOFF_HZ)
    poses, view = replace(solution.poses, expression=steady), solution.view
    read = lambda k: capture.frames[int(indices[k])]  # noqa: E731
    with reporter.bar("aligning the head", 2 * len(indices)) as bar:
        poses, alike = refine_poses(read, solution.head, view, poses, bar.advance)
        masks = lambda k: first.masks[int(indices[k])]  # noqa: E731
        poses, view = align_head(read, masks, solution.head, view, poses, bar.advance)
    agreement = np.zeros((len(first.valid), 2))
    agreement[indices] = alike
    head = solution.head
    if view != solution.view:
        head, poses = settle_head(first.landmarks[indices, :, :2], head, view, poses)
    return poses, head, view, agreement


def _explained(capture: Capture, neutral, view, poses: Poses, coefficients, valid, reporter: Reporter):
    """Fourth reading of the frames: poses and coefficients from how this person's face looks; frames that are not
    `valid` keep their pose, and their coefficients are bridged."""
    indices = np.flatnonzero(valid)
    with reporter.bar("reading the face", len(indices)) as bar:
        found, refined = refine_by_appearance(
            lambda k: capture.frames[int(indices[k])], neutral, view, poses.at(valid), coefficients[valid], bar.advance
        )
    rotation, translation, coefficients = poses.rotation.copy(), poses.translation.copy(), coefficients.copy()
    rotation[valid], translation[valid], coefficients[valid] = found.rotation, found.translation, refined
    times = np.asarray(capture.times, dtype=np.float64)
    return Poses(rotation, translation, poses.expression), bridge(coefficients, times, valid)


def _mesh_error(solution: Solution, valid: np.ndarray) -> np.ndarray:
    """How far the mesh's skin points lie from the solved head in each of all frames, px. [N]"""
    error = np.zeros(len(valid))
    error[valid] = np.linalg.norm(solution.residual[:, :SKIN_POINTS], axis=-1).mean(axis=1)
    return error


def _coefficients(first: _FirstPass, times: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Smoothed coefficients of all frames; those of frames that are not `valid` are bridged."""
    if first.coefficients is not None:
        return steady_coefficients(first.coefficients, times, valid)
    raw = np.zeros((len(times), 52), np.float32)
    raw[first.valid] = solve_coefficients(first.landmarks[first.valid])
    return steady_coefficients(raw, times, valid)


def _reference_frame(camera_from_head: np.ndarray, coefficients: np.ndarray, valid: np.ndarray) -> int:
    """A frame near the median pose with open eyes and a rather closed mouth."""
    from avatar.conventions import BLENDSHAPE_INDEX as index

    motion = np.concatenate(
        [camera_from_head[:, :3, 2], camera_from_head[:, :3, 0], camera_from_head[:, :3, 3] / 10], 1
    )
    away = np.linalg.norm(motion - np.median(motion[valid], axis=0), axis=1)
    away = away / (np.median(away[valid]) + 1e-9)
    blink = coefficients[:, [index["eyeBlinkLeft"], index["eyeBlinkRight"]]].mean(1)
    blink = blink - np.percentile(blink[valid], 20)
    jaw = coefficients[:, index["jawOpen"]]
    score = away + 6 * np.maximum(blink, 0) + 4 * jaw + 1e9 * ~valid
    return int(np.argmin(score))


def _regions_and_torso(
    capture, first: _FirstPass, plate: Plate, camera, camera_from_head, landmarks, valid, reference: int, reporter
):
    """Fifth reading of the frames: matte, labels, torso motion, which is bridged where frames are not `valid`
    or no torso is found."""
    count, size = len(capture.frames), capture.size

    def regions_of(i: int, frame):
        matte = refine_matte(frame, steadied(first.masks, i), plate)
        return label_frame(frame, matte, head_frame(landmarks[i]), first.colours), matte

    frames = lately_read(capture.frames)
    labels, _ = regions_of(reference, frames(reference))
    tracker = TorsoTracker(frames(reference), labels == 1)
    writer = RegionWriter(size)
    motion, agreement = np.zeros((count, 4)), np.zeros(count)
    with reporter.bar("regions and torso", count) as bar:
        for i, packed in enumerate(ahead(count, lambda i: writer.pack(*regions_of(i, frames(i))))):
            writer.add(packed)
            if valid[i]:
                motion[i], agreement[i] = tracker(frames(i))
            bar.advance()
    smoothed = _smooth_torso(motion, agreement, np.asarray(capture.times, dtype=np.float64))
    smoothed -= smoothed[reference]
    torso_depth = float(camera_from_head[reference, 2, 3])
    lifted = lift_motion(smoothed, tracker.centre, torso_depth, camera)
    return writer.finish(), lifted @ camera_from_head[reference]


def _smooth_torso(motion: np.ndarray, agreement: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Motion of all frames [N, 4] without jitter; where nothing agreed it is bridged."""
    found = agreement > 0
    if not found.any():
        return np.zeros_like(motion)
    trust = np.where(found, np.clip(agreement, 0.05, 1), 0.0)
    smoothed = whittaker(motion, times, TORSO_CUTOFF_HZ, trust)
    smoothed[:, :1] = whittaker(motion[:, :1], times, TORSO_SCALE_CUTOFF_HZ, trust)
    return bridge(smoothed, times, found)


__all__ = ["StoredRegions", "track"]
