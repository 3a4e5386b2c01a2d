"""Output appears whole or not at all: write beside, then rename."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from avatar.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor


def explain_os_error(error: OSError, path: Path) -> UserError:
    """The sentence for a place that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full: {path} could not be written; free some space and run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{path} cannot be written (no permission); choose another place with -o.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return UserError(f"{path} cannot be written: something else of that name is in the way.")
    return UserError(f"{path} cannot be written: {error.strerror or one_line(error)}.")


def check_writable(path: Path) -> None:
    """Finds out before long work whether its result can be kept; makes the folder for it.

    Raises:
        UserError: a file cannot be written there, or a folder of that name is in the way.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise explain_os_error(error, path) from error
    if path.is_dir():
        raise UserError(f"{path} is a folder, which is in the way; choose another name.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it takes `path`'s place, on any failure it is removed.

    Raises:
        UserError: disk full, no permission, or something in the way.
    """
    # The suffix stays, because writers choose the format by it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        partial.unlink()
        yield partial
        partial.chmod(mode)  # some writers keep others from reading, whatever the user's umask says; a web server must
        partial.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with suppress(OSError):  # a parent that is no folder fails here too; the first error is the one to show
            partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """As `replacing`, for a folder: what is new takes the place of all that was in it when it is complete."""
    place = folder.resolve()  # "." has no name, and beside a link is not beside the folder
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if place.is_dir():  # the folder itself stays: a shell may stand in it, or a disk be mounted there
            _refill(place, partial)
        else:
            partial.replace(place)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refill(folder: Path, source: Path) -> None:
    for old in folder.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in source.iterdir():
        shutil.move(new, folder)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        UserError: the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as partial:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata=metadata)
        except SafetensorError as error:
            # The library wraps the system's error into text: "... (os error 28)".
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number.group(1)) if number else errno.EIO, one_line(error)) from error


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file whose names begin so, without that beginning."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
