"""Where the square is cut, and which clips are refused for their faces."""

import numpy as np
import pytest

from avatar.capture.crop import FACE_HEIGHT, FACE_SHARE, choose_crop, face_px
from avatar.capture.faces import Face, Sighting, find_faces
from avatar.errors import UserError


def _sighting(*faces: tuple[float, float, float], size: tuple[int, int], seconds: float = 0.0) -> Sighting:
    """Faces given as centre and side in px of a (width, height) picture."""
    width, height = size
    return Sighting(seconds, tuple(Face(x / width, y / height, side / width, 0.9) for x, y, side in faces), 120.0)


def test_a_framed_square_clip_is_kept_whole():
    crop = choose_crop([_sighting((250, 280, 220), size=(512, 512))] * 5, (512, 512), None)
    assert (crop.left, crop.top, crop.side, crop.size) == (0, 0, 512, 512)
    odd = choose_crop([_sighting((260, 280, 220), size=(525, 523))] * 5, (525, 523), None)
    assert (odd.side, odd.size) == (522, 512)


def test_a_small_face_in_a_wide_frame_is_cut_out():
    crop = choose_crop([_sighting((1200, 500, 200), size=(1920, 1080))] * 5, (1920, 1080), None)
    assert crop.side == round(200 / FACE_SHARE) and crop.size == crop.side
    assert abs(crop.left + crop.side / 2 - 1200) <= 1
    assert abs(crop.top + FACE_HEIGHT * crop.side - 500) <= 1


def test_a_small_face_in_a_square_clip_is_cut_out_too():
    crop = choose_crop([_sighting((500, 400, 100), size=(1080, 1080))] * 5, (1080, 1080), None)
    assert crop.side == 250


@pytest.mark.parametrize("x,y", [(20, 30), (1900, 1060), (20, 1060)])
def test_the_square_stays_inside_the_picture(x, y):
    crop = choose_crop([_sighting((x, y, 200), size=(1920, 1080))] * 3, (1920, 1080), None)
    assert crop.left >= 0 and crop.top >= 0
    assert crop.left + crop.side <= 1920 and crop.top + crop.side <= 1080


def test_a_large_face_takes_the_whole_height():
    crop = choose_crop([_sighting((960, 620, 463), size=(1920, 1080))] * 3, (1920, 1080), 512)
    assert (crop.left, crop.top, crop.side, crop.size) == (420, 0, 1080, 512)
    upright = choose_crop([_sighting((540, 700, 500), size=(1080, 1920))] * 3, (1080, 1920), 512)
    assert upright.side == 1080 and upright.left == 0 and abs(upright.top + FACE_HEIGHT * 1080 - 700) <= 1


def test_the_square_covers_the_range_of_the_face_and_ignores_strays():
    path = [_sighting((700 + 40 * i, 500, 150), size=(1920, 1080)) for i in range(12)]
    crop = choose_crop(path, (1920, 1080), None)
    assert crop.left < 700 - 75 and crop.left + crop.side > 1140 + 75
    stray = [_sighting((1000, 500, 150), size=(1920, 1080))] * 40 + [_sighting((100, 100, 150), size=(1920, 1080))]
    assert choose_crop(stray, (1920, 1080), None).side == 374  # 150 / 0.4 = 375, even


@pytest.mark.parametrize("asked,size", [(None, 400), (256, 256), (255, 254), (512, 400)])
def test_nothing_is_scaled_up(asked, size):
    sightings = [_sighting((800, 400, 160), size=(1920, 1080))] * 3
    crop = choose_crop(sightings, (1920, 1080), asked)
    assert (crop.side, crop.size) == (400, size)
    assert face_px(sightings, (1920, 1080), crop) == pytest.approx(160 * size / 400)


def test_somebody_who_walks_through_does_not_move_the_square():
    size = (1024, 512)
    alone = _sighting((250, 280, 220), size=size)
    nearer = _sighting((800, 280, 300), (250, 280, 220), size=size)  # the largest is not the one the clip is of
    expected = choose_crop([alone] * 14, size, None)
    with_guest = [alone] * 6 + [nearer] * 3 + [alone] * 5
    assert choose_crop(with_guest, size, None) == expected
    assert face_px(with_guest, size, expected) == face_px([alone], size, expected)


def test_clips_refused_for_their_faces():
    size = (1920, 1080)
    alone, two = (
        _sighting((500, 500, 200), size=size),
        _sighting((500, 500, 200), (1300, 500, 160), size=size, seconds=3.0),
    )
    distant = _sighting((500, 500, 200), (1300, 500, 60), size=size)
    with pytest.raises(UserError, match="No face was found in any of 3 pictures"):
        choose_crop([_sighting(size=size)] * 3, size, None)
    with pytest.raises(UserError, match=r"Two people are in the clip \(at 3.0 s"):
        choose_crop([two] * 2 + [alone], size, None)
    choose_crop([two] + [alone] * 2, size, None)  # somebody walked through
    choose_crop([distant] * 3, size, None)  # somebody far behind
    with pytest.raises(UserError, match="too small for an avatar"):
        choose_crop([alone], size, 32)


def test_the_detectors_find_drawn_faces(make):
    """The real MediaPipe models, large and small faces, one, two and none."""
    large, small = make.scene((512, 512), [(56, 60, 400)]), make.scene((1280, 720), [(900, 300, 120)])
    two, none = make.scene((1280, 720), [(100, 200, 320), (800, 200, 320)]), make.scene((512, 512), [])
    seen = find_faces((float(i), p) for i, p in enumerate([large, small, two, none]))
    assert [len(s.faces) for s in seen] == [1, 1, 2, 0]
    assert [s.crowded for s in seen] == [False, False, True, False]
    face = seen[0].faces[0]
    assert abs(face.x * 512 - 256) < 20 and abs(face.y * 512 - 270) < 30 and 130 < face.side * 512 < 220
    face = seen[1].faces[0]
    assert abs(face.x * 1280 - 960) < 20 and abs(face.y * 720 - 365) < 25
    assert 140 < seen[0].brightness < 200
    dark = find_faces([(0.0, (large // 5).astype(np.uint8))])[0]
    assert not dark.faces or dark.brightness < 45


def test_the_detectors_are_quiet(make, capfd):
    find_faces([(0.0, make.scene((512, 512), [(56, 60, 400)]))])
    assert capfd.readouterr().err == ""
