"""Files that are either whole or not there."""

import os
import stat
import tempfile
from pathlib import Path


class RenderError(Exception):
    """Something a user can mend; its text is one line."""


def write(path: str | Path, data: str | bytes) -> None:
    """Writes to a temporary name beside `path`, then renames. Devices and pipes are written directly.

    Raises RenderError where that cannot be done; what stood at `path` before is then still there, whole.
    """
    target = Path(os.path.realpath(path))
    content = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        if target.exists() and not target.is_dir() and not stat.S_ISREG(target.stat().st_mode):
            target.write_bytes(content)
            return
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(None, "the file is write-protected")
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise RenderError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _mode(target: Path) -> int:
    """The permissions that a plain open() would leave: those of the file that is replaced, else the process's default."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
