"""The parts that read pictures, on drawn ones: alignment to a texture, torso motion, backdrop, matte, labels."""

import numpy as np
import pytest

from avatar.conventions import REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.geometry import matrix_from_euler, matrix_from_rotvec, project, rotvec_from_matrix
from avatar.track import parallel
from avatar.track.backdrop import BackdropBuilder, Plate, fill
from avatar.track.exchange import FACING
from avatar.track.matte import refine_matte
from avatar.track.mesh import INNER_LIPS, mean_head, triangles
from avatar.track.photometric import refine_poses
from avatar.track.regions import ColourStatistics, head_frame, inner_mouth, label_frame
from avatar.track.solve import Head, Poses, View
from avatar.track.torso import TorsoTracker, apply_motion, lift_motion
from avatar.types import Camera

cv2 = pytest.importorskip("cv2")
SIZE = 256


def speckle(size: int, seed: int = 0, grain: float = 1.5) -> np.ndarray:
    """Smooth random grey pattern with contrast. [size, size] 0..255"""
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255)


def drawn_head(rotation, translation, focal: float) -> np.ndarray:
    """The mean head with a speckled skin, drawn triangle by triangle from its flat unwrapping."""
    skin, head = speckle(SIZE, grain=4.0).astype(np.uint8), mean_head()
    flat = ((head[:, :2] - head[:, :2].min(0)) / 18 * (SIZE - 20) + 10).astype(np.float32)
    camera = head @ rotation.T + translation
    pixels = (focal * camera[:, :2] / camera[:, 2:] + SIZE / 2 - 0.5).astype(np.float32)
    picture = np.full((SIZE, SIZE), 60, np.uint8)
    for corners in sorted(triangles().astype(int).tolist(), key=lambda t: -camera[t, 2].mean()):
        warp = cv2.getAffineTransform(flat[corners], pixels[corners])
        low = np.floor(pixels[corners].min(0)).astype(int) - 1
        high = np.ceil(pixels[corners].max(0)).astype(int) + 2
        warp[:, 2] -= low
        part = cv2.warpAffine(skin, warp, tuple((high - low).tolist()), flags=cv2.INTER_LINEAR)
        mask = np.zeros(part.shape, np.uint8)
        cv2.fillConvexPoly(mask, ((pixels[corners] - low) * 16).round().astype(np.int32), (1,), shift=4)
        target = picture[low[1] : high[1], low[0] : high[0]]
        np.copyto(target, part, where=mask > 0)
    return np.repeat(picture[..., None], 3, axis=2)


def test_poses_snap_to_the_persons_own_texture(monkeypatch):
    count, focal = 10, 500.0
    time = np.linspace(0, 2 * np.pi, count, endpoint=False)
    rotation = FACING @ matrix_from_euler(np.stack([0.2 * np.sin(time), 0.1 * np.cos(time), 0 * time], axis=1))
    translation = np.stack([np.sin(time), 0.5 * np.cos(time), 55 + np.cos(time)], axis=1)
    frames = [drawn_head(r, t, focal) for r, t in zip(rotation, translation, strict=True)]
    rng = np.random.default_rng(1)
    rough = Poses(
        matrix_from_rotvec(rng.normal(0, 0.02, (count, 3))) @ rotation,
        translation + rng.normal(0, 0.15, (count, 3)),
        np.zeros((count, 0)),
    )
    head = Head(mean_head(), np.zeros((0, 478, 3)), np.zeros(0), np.ones(0))
    found, agreement = refine_poses(frames.__getitem__, head, View(focal, SIZE / 2), rough)
    monkeypatch.setattr(parallel, "WORKERS", 1)
    alone, _ = refine_poses(frames.__getitem__, head, View(focal, SIZE / 2), rough)
    np.testing.assert_array_equal(found.rotation, alone.rotation)  # whatever the number of threads

    def error(poses: Poses) -> float:
        """Spread of the rotation error in degrees; a constant one only turns the texture on the head."""
        turned = rotvec_from_matrix(np.swapaxes(poses.rotation, 1, 2) @ rotation)
        return float(np.degrees(np.sqrt(((turned - turned.mean(0)) ** 2).sum(1).mean())))

    assert error(rough) > 1.5 and agreement.min() > 0.5
    assert error(found) < 0.2 * error(rough)  # 0.1 of it when written


def test_torso_motion_is_found_and_lifted_to_the_same_picture_motion():
    picture = np.repeat(speckle(SIZE, 3, 2.5)[..., None], 3, axis=2).astype(np.uint8)
    torso = np.zeros((SIZE, SIZE), bool)
    torso[140:, 30:226] = True
    tracker = TorsoTracker(picture, torso)
    true = np.array([0.02 * np.cos(0.03), 0.03, 0.03, -0.015])
    matrix = tracker._pixel_matrix(true)
    moved = cv2.warpAffine(picture, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    motion, agreement = tracker(moved)
    np.testing.assert_allclose(motion, true, atol=1.5e-3)
    assert agreement > 0.8
    still, _ = tracker(picture)
    np.testing.assert_allclose(still, 0, atol=1e-3)

    camera = Camera(500.0, SIZE / 2, SIZE / 2, SIZE, SIZE)
    lifted = lift_motion(true[None], tracker.centre, 60.0, camera)
    corners = np.array([[-3.0, 2.0, 60.0], [5.0, 1.0, 60.0], [0.0, 6.0, 60.0]])
    before = project(camera, corners) / SIZE - tracker.centre
    after = project(camera, corners @ lifted[0, :3, :3].T + lifted[0, :3, 3]) / SIZE - tracker.centre
    np.testing.assert_allclose(after, apply_motion(true, before), atol=1e-9)


def test_torso_is_found_again_after_another_picture():
    picture = np.repeat(speckle(SIZE, 3, 2.5)[..., None], 3, axis=2).astype(np.uint8)
    torso = np.zeros((SIZE, SIZE), bool)
    torso[140:, 30:226] = True
    tracker = TorsoTracker(picture, torso)
    near = np.array([0.01, 0.0, 0.02, 0.0])
    moved = cv2.warpAffine(picture, tracker._pixel_matrix(near), (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    tracker(moved)
    for other in (np.zeros_like(picture), np.full_like(picture, 255), 255 - picture[::-1]):
        for _ in range(4):
            motion, agreement = tracker(other)
            assert np.abs(motion).max() < 0.6 and 0.6 < 1 + motion[0] < 1.7
        motion, agreement = tracker(moved)
        np.testing.assert_allclose(motion, near, atol=1.5e-3)
        assert agreement > 0.8


def test_torso_without_pixels_stays():
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    tracker = TorsoTracker(picture, np.zeros((SIZE, SIZE), bool))
    motion, agreement = tracker(picture)
    assert not tracker.usable and agreement == 0 and not motion.any()


def test_backdrop_is_seen_around_a_moving_person_and_filled_behind():
    size, count = 64, 12
    backdrop = np.tile(np.linspace(50, 200, size, dtype=np.uint8)[None, :, None], (size, 1, 3))
    builder = BackdropBuilder(count, size)
    for i in range(count):
        frame, mask = backdrop.copy(), np.zeros((size, size), np.uint8)
        part = np.s_[20:, 10 + 2 * i : 30 + 2 * i]
        frame[part], mask[part] = 255, 255
        builder.add(i, frame, mask)
    plate = builder.plate()
    error = np.abs(plate.colour.astype(int) - backdrop).max(-1)
    assert plate.seen[:15].all() and not plate.seen[40, 31]
    assert error[plate.seen].max() <= 2
    assert error.max() < 30


def test_backdrop_is_the_median_of_what_was_uncovered():
    rng = np.random.default_rng(0)
    count, size = 9, 32
    frames = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    builder = BackdropBuilder(count, size)
    for i, frame in enumerate(frames):
        builder.add(i, frame, np.full((size, size), 255 if i in (2, 5) else 0, np.uint8))  # two of nine are all person
    plate = builder.plate()
    middle = np.median(np.delete(frames, (2, 5), axis=0), axis=0)
    np.testing.assert_array_equal(plate.colour, middle.astype(np.uint8))


def test_backdrop_is_of_one_shot():
    """A black stretch shows nothing of what is behind the person; the empty room does."""
    size, room = 64, np.tile(np.linspace(50, 200, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    for empty, known in ((np.zeros_like(room), False), (room, True)):
        builder = BackdropBuilder(20, size)
        for i in range(20):
            frame, mask = room.copy(), np.zeros((size, size), np.uint8)
            frame[8:, 8:56], mask[8:, 8:56] = 255, 255  # most of the picture
            gone = 8 <= i < 13
            builder.add(i, empty if gone else frame, np.zeros_like(mask) if gone else mask)
        plate = builder.plate()
        assert bool(plate.seen[40, 32]) is known
        assert np.abs(plate.colour.astype(int) - room)[plate.seen].max() <= 1


def test_fill_of_nothing_known_is_grey():
    assert (fill(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), bool)) == 127).all()


def test_matte_follows_the_pictures_edge_not_the_networks():
    size = 128
    frame = np.full((size, size, 3), 40, np.uint8)
    frame[:, 60:] = (220, 180, 150)  # the person begins at column 60 ...
    mask = np.zeros((size, size), np.float32)
    mask[:, 62:] = 255  # ... the network says 62, softly
    mask = cv2.GaussianBlur(mask, (0, 0), 2)
    plate = Plate(
        np.full((size, size, 3), 40, np.uint8), np.ones((size, size), np.float32), np.ones((size, size), bool)
    )
    matte = refine_matte(frame, mask, plate)
    assert matte[:, :57].max() == 0 and matte[:, 66:].min() == 255
    assert np.abs((matte[64] > 127).argmax() - 60) <= 1


@pytest.fixture(scope="module")
def drawn_person():
    """A frame, its matte, and landmarks: skin-coloured head and neck, dark hair, white shirt."""
    frame = np.full((SIZE, SIZE, 3), (30, 90, 160), np.uint8)
    head = mean_head()
    landmarks = head[:, :2] * [7, -7] + [128, 100]
    matte = np.zeros((SIZE, SIZE), np.uint8)
    for colour, shape in (
        ((245, 245, 240), np.s_[186:, 20:236]), ((205, 150, 125), np.s_[150:200, 105:152]),
        ((60, 40, 30), np.s_[20:110, 68:188]), ((210, 155, 130), np.s_[48:170, 80:176]),
    ):  # fmt: skip
        frame[shape], matte[shape] = colour, 255
    return frame, matte, landmarks


def test_labels_tell_head_neck_and_clothes_apart(drawn_person):
    frame, matte, landmarks = drawn_person
    colours = ColourStatistics()
    colours.add(frame, matte, head_frame(landmarks))
    closed = landmarks.copy()
    closed[list(INNER_LIPS), 1] = landmarks[list(INNER_LIPS), 1].mean()
    labels = label_frame(frame, matte, head_frame(closed), colours)
    assert labels[5, 5] == REGION_BACKGROUND
    assert labels[60, 128] == labels[30, 75] == labels[182, 128] == REGION_HEAD  # forehead, hair, neck
    assert labels[240, 128] == labels[200, 30] == REGION_TORSO
    assert not (labels == REGION_MOUTH).any()  # the lips touch


def test_inner_mouth_opens_with_the_lips(drawn_person):
    _, _, landmarks = drawn_person
    inner, opened, closed = list(INNER_LIPS), landmarks.copy(), landmarks.copy()
    lower = [i for i in inner if landmarks[i, 1] > landmarks[inner, 1].mean()]
    opened[lower, 1] += 8
    closed[inner, 1] = landmarks[inner, 1].mean()
    assert inner_mouth(closed, 7.0, SIZE).sum() == 0
    mask = inner_mouth(opened, 7.0, SIZE)
    centre = opened[[13, 14]].mean(0).astype(int)
    assert mask[centre[1], centre[0]] == 1 and 50 < mask.sum() < 800
