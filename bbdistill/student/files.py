"""Directories that are either whole or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory beside `path` that takes its name once the block is done and the files are on disk.

    What stood at `path` before is replaced. A crash leaves at most a directory whose name starts with a dot.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        for entry in (*new.rglob("*"), new):
            _sync(entry)
        if path.exists():
            os.replace(path, scratch / "old")
        os.replace(new, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
