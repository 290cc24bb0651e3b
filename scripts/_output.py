"""Where scripts write: places refused before anything is measured for them, and files that grow line by line."""

from __future__ import annotations

import argparse
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
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()
