"""The shape of the package itself: stage order, lazy heavy imports, nothing unsafe, shapes really checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "avatar"

STAGES = (
    "capture",
    "track",
    "speech",
    "dataset",
    "raster",
    "model",
    "train",
    "evaluate",
    "drive",
    "export",
    "viewer",
    "bench",
)
"""A stage imports only the ones before it."""
SHARED = ("types", "conventions", "geometry", "config", "errors", "progress", "media", "files", "quiet", "cores")
"""Modules that anything may import, and that import only each other."""

HEAVY = ("mediapipe", "cv2", "librosa", "soundfile", "soxr", "viser", "tensorboard", "av", "gsplat", "moderngl",
         "onnx", "onnxscript", "onnxruntime")  # fmt: skip
"""Imported inside functions only: what does not need them must work without them."""
UNSAFE_MODULES = ("pickle", "cPickle", "dill", "marshal", "shelve", "joblib")
UNSAFE_CALLS = ("eval", "exec", "os.system", "os.popen", "torch.load", "numpy.load", "np.load")

PRODUCT = ("avatar", "cuda_ext", "configs", "viewer", "README.md")
"""What must name neither the machine it was written on nor the clips it was evaluated on."""
TEXT_SUFFIXES = (
    *(".py", ".md", ".toml", ".html", ".js", ".mjs", ".css"),
    *(".h", ".hpp", ".cpp", ".cu", ".cuh", ".inl", ".txt"),
)
ABSOLUTE_PATH = re.compile(r"""(?<![\w.:/~])/(?:work|home|root|Users|mnt|media)/\w""")
EVALUATION_CLIPS = (
    "presenter_20s", "office_60s", "address_8s", "short_5s", "emotion_1080p", "no_audio_16s", "small_face_3s",
)  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """Full names of everything a piece of code imports, with line numbers; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [base])))
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def own(name: str) -> str | None:
    """First component below the package (``avatar.track.mesh`` -> ``track``); '' for the package; None for others."""
    parts = name.split(".")
    if parts[0] != "avatar":
        return None
    return parts[1] if len(parts) > 1 else ""


def wrong_imports(path: Path) -> list[str]:
    """Imports of a module that its place does not allow."""
    place = own(dotted(path)) or ""
    if place in STAGES:
        allowed = {*STAGES[: STAGES.index(place) + 1], *SHARED}
    elif place in SHARED:
        allowed = {*SHARED}
    else:
        return []  # pipeline, cli, doctor and the package itself may use everything
    return [
        f"{dotted(path)}:{line} imports {name}"
        for name, line in imported(parse(path), path)
        if (target := own(name)) is not None and target not in allowed and not is_version(name)
    ]


def is_version(name: str) -> bool:
    return name == "avatar.__version__"


def test_stages_import_only_what_lies_above_them():
    assert [entry for path in modules() for entry in wrong_imports(path)] == []


def test_every_folder_is_a_stage_with_a_place_in_the_order():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders <= set(STAGES)


def test_the_order_check_itself_finds_a_wrong_import(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    stage = tmp_path / "avatar" / "track" / "solve.py"
    stage.parent.mkdir(parents=True)
    stage.write_text(
        "from avatar.capture import x\nfrom avatar import types\nfrom avatar.train import y\n"
        "from ..model import z\nfrom . import mesh\ndef f():\n    import avatar.pipeline\n"
    )
    assert [entry.split()[-1] for entry in wrong_imports(stage)] == [
        "avatar.train.y", "avatar.model.z", "avatar.pipeline",
    ]  # fmt: skip


def outside_functions(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; what only a type checker reads is left out."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            waiting += [child for child in getattr(node, name, []) if isinstance(child, ast.stmt)]
        for handler in getattr(node, "handlers", []):
            waiting += handler.body


def heavy_at_the_top(tree: ast.Module, path: Path) -> list[str]:
    """Imports of heavy libraries that run as soon as the module is imported."""
    found = []
    for statement in outside_functions(tree):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, line in imported(ast.Module([statement], []), path):
                if name.split(".")[0] in HEAVY or name.startswith("torch.utils.tensorboard"):
                    found.append(f"{dotted(path)}:{line} imports {name}")
    return found


def test_heavy_libraries_are_imported_inside_functions():
    assert [entry for path in modules() for entry in heavy_at_the_top(parse(path), path)] == []


def test_the_lazy_import_check_itself_looks_everywhere_but_inside_functions():
    text = (
        "import cv2.aruco\ntry:\n    import av\nexcept ImportError:\n    from librosa import feature\n"
        "if TYPE_CHECKING:\n    import soxr\nclass A:\n    import viser\n    def f(self):\n        import mediapipe\n"
    )
    found = heavy_at_the_top(ast.parse(text), PACKAGE / "x.py")
    assert sorted(entry.split()[-1] for entry in found) == ["av", "cv2.aruco", "librosa.feature", "viser"]


def unsafe(tree: ast.Module, path: Path) -> list[str]:
    """Uses of pickle, of evaluated text, or of a shell."""
    found = [f"line {line}: {name}" for name, line in imported(tree, path) if name.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {k.arg: k.value for k in node.keywords}
        careful = any(
            isinstance(value, ast.Constant) and value.value is wanted
            for value, wanted in ((options.get("weights_only"), True), (options.get("allow_pickle"), False))
        )
        if called in UNSAFE_CALLS and not careful:
            found.append(f"line {node.lineno}: {called}(...)")
        shell = options.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"line {node.lineno}: {called}(shell=...)")
        pickles = options.get("allow_pickle")
        if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
            found.append(f"line {node.lineno}: {called}(allow_pickle=...)")
    return found


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    assert {dotted(path): found for path in modules() if (found := unsafe(parse(path), path))} == {}


def test_the_safety_check_itself_finds_each_kind():
    text = (
        "import pickle\neval('1')\nsubprocess.run(x, shell=True)\nos.system(x)\ntorch.load(p)\n"
        "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=True)\nmodel.eval()\nre.compile(x)\n"
    )
    lines = [entry.split(":")[0] for entry in unsafe(ast.parse(text), PACKAGE / "x.py")]
    assert sorted(set(lines)) == ["line 1", "line 2", "line 3", "line 4", "line 5", "line 7"]


def product_files() -> Iterator[Path]:
    for name in PRODUCT:
        path = ROOT / name
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (f for f in files if f.is_file() and f.suffix in TEXT_SUFFIXES and "runtime" not in f.parts)


def test_the_product_names_no_absolute_path_and_no_evaluation_clip():
    found = []
    for path in product_files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if ABSOLUTE_PATH.search(line) or any(clip in line for clip in EVALUATION_CLIPS):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize(("line", "expected"), [
    ('open("/work/main/x")', True), ("/home/me/clip.mp4", True), ("https://x.org/home/a", False),
    ("captures/work/a", False), ("~/home/x", False),
])  # fmt: skip
def test_absolute_paths_are_told_from_other_slashes(line: str, expected: bool):
    assert bool(ABSOLUTE_PATH.search(line)) is expected


def test_a_wrong_shape_fails():
    """With one name instead of two in ``--jaxtyping-packages``, or none, nothing is checked and this fails."""
    from avatar.evaluate.metrics import psnr, ssim
    from avatar.types import SpeechFeatures

    frame = np.zeros((12, 16, 3))
    assert psnr(frame, frame) == 100.0
    with pytest.raises(jaxtyping.TypeCheckError, match="truth"):
        psnr(frame, np.zeros((16, 12, 3)))  # differs from the other argument
    with pytest.raises(jaxtyping.TypeCheckError, match="image"):
        ssim(np.zeros((12, 16, 4)), frame)  # four channels
    with pytest.raises(jaxtyping.TypeCheckError, match="log_mel"):
        SpeechFeatures(log_mel=np.zeros((10, 80)), times=np.arange(10) / 100)  # float64 instead of float32
    with pytest.raises(jaxtyping.TypeCheckError, match="times"):
        SpeechFeatures(log_mel=np.zeros((10, 80), np.float32), times=np.arange(9) / 100)
