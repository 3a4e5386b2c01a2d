"""Files appear whole, and as the user's own."""

from __future__ import annotations

import stat

import pytest

torch = pytest.importorskip("torch")

from avatar.files import replacing, save_tensors  # noqa: E402


def test_what_is_saved_may_be_read_by_whom_the_user_lets(tmp_path) -> None:
    """An avatar that only its owner may read cannot be served; safetensors writes such files."""
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    saved = tmp_path / "saved.avatar"
    save_tensors(saved, {"x": torch.zeros(2)}, {})
    assert stat.S_IMODE(saved.stat().st_mode) == usual
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved.avatar", "usual"]


def test_nothing_is_left_of_what_failed(tmp_path) -> None:
    (tmp_path / "kept").write_text("before")
    with pytest.raises(RuntimeError), replacing(tmp_path / "kept") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "before"
