"""The player as one HTML file: modules joined, data carried in the page. For opening from a disk or a mail.

The player's modules keep to two forms, which is what makes joining them a few lines: ``import { a, b } from "./x.js";``
on a line of its own, and ``export`` before a declaration. Each becomes a function that returns its exports.
"""

from __future__ import annotations

import base64
import posixpath
import re
import zlib

PAGE = "index.html"
_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "(\.{1,2}/[\w./]+)";\n', re.MULTILINE)
_IMPORT_ALL = re.compile(r'^import "(\.{1,2}/[\w./]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)
_SCRIPT = re.compile(r'<script type="module" src="([\w./]+)"></script>')
_STYLE = re.compile(r'<link rel="stylesheet" href="([\w./]+)" ?/?>')
_COMPRESSED = (".wasm", ".onnx")


def single_page(files: dict[str, bytes]) -> bytes:
    """The page that carries everything.

    Args:
        files: the player folder's, by path.
    """
    page = files[PAGE].decode()
    page = _STYLE.sub(lambda m: f"<style>\n{files[m[1]].decode()}</style>", page)
    scripts = _SCRIPT.findall(page)
    data = "".join(_embedded(path, body) for path, body in files.items() if _is_data(path))
    code = joined(files, scripts[0]).replace("</script", "<\\/script")
    page = _SCRIPT.sub(lambda _: f'{data}<script type="module">\n{code}</script>', page)
    return page.replace('src="."', 'src="page:"').encode()


def joined(files: dict[str, bytes], entry: str) -> str:
    """`entry` and everything it imports as one module, in the order in which they need each other."""
    out: list[str] = []
    done: set[str] = set()

    def visit(path: str) -> None:
        if path in done:
            return
        done.add(path)
        text = files[path].decode()
        folder = posixpath.dirname(path)

        def place(target: str) -> str:
            return posixpath.normpath(posixpath.join(folder, target))

        for target in [*(m[1] for m in _IMPORT.findall(text)), *_IMPORT_ALL.findall(text)]:
            visit(place(target))
        names = [name for _, name in _EXPORT.findall(text)]
        text = _IMPORT.sub(lambda m: f"const {{ {m[1]} }} = {_variable(place(m[2]))};\n", text)
        text = _EXPORT.sub(r"\1 \2", _IMPORT_ALL.sub("", text))
        out.append(f"const {_variable(path)} = (() => {{\n{text}\nreturn {{ {', '.join(names)} }};\n}})();\n")

    visit(entry)
    return "".join(out)


def _variable(path: str) -> str:
    return "m_" + re.sub(r"\W", "_", path)


def _is_data(path: str) -> bool:
    # Modules and styles are joined into the page; the runtime's module is imported as it is.
    return not path.endswith((".html", ".js", ".css", ".md"))


def _embedded(path: str, body: bytes) -> str:
    packed = path.endswith(_COMPRESSED)
    text = base64.b64encode(zlib.compress(body, 6) if packed else body).decode()
    mark = ' data-packed="deflate"' if packed else ""
    return f'<script type="text/plain" data-file="{path}"{mark}>{text}</script>\n'
