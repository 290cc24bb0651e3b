"""Where scripts write: places refused before anything is measured for them, and files that grow line by line."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path


def output_folder(text: str) -> Path:
    """A folder that files can be written to; made where there is none."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"nothing can be written to {folder}: {error.strerror}") from None
    return folder


def output_file(text: str) -> Path:
    """A file that can be written, whether it is there or not; its folder is made where there is none."""
    file = Path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{file} is a folder, and a file is wanted")
    output_folder(str(file.parent))
    return file


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, if it is there, that grows line by line; one that was cut short is taken out of it."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    length = data.rfind(b"\n") + 1
    if length < len(data):
        os.truncate(path, length)  # not written anew: a kill in between would take all lines with it
    return data[:length].decode().split("\n")[:-1]
