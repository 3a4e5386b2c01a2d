"""The player's own files: page, modules, licence."""

from __future__ import annotations

from pathlib import Path


def player_sources() -> Path:
    """Where the page and its modules live: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "player"
    return inside if inside.is_dir() else package.parent / "viewer" / "player"


def source_files() -> dict[str, bytes]:
    """What of it belongs into an exported folder, by path relative to that."""
    root = player_sources()
    found = sorted([*root.glob("*.html"), *root.glob("*.js"), *root.glob("*.css"), *root.glob("modules/*.js")])
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in [*found, root / "README.md"]}
    files["LICENSE"] = next(p for p in (root / "LICENSE", root.parent.parent / "LICENSE") if p.is_file()).read_bytes()
    return files
