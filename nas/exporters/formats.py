"""The formats that a cell can be exported in."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from grammar import suggest
from nas.errors import ExportError

FORMATS = ("cell", "pt2", "onnx")
"""`cell.py` with its weights, which is always written; a program of torch.export; ONNX."""
ALL = "all"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def read_formats(given: str | Sequence[str]) -> tuple[str, ...]:
    """The formats in a text with commas, or in a list, in their order; "all" stands for all of them.

    Raises ExportError for an unknown one, and for ONNX where what writes and checks it is not installed.
    """
    names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given)]
    for name in names:
        if name not in (*FORMATS, ALL):
            known = (*FORMATS, ALL)
            raise ExportError(
                f"unknown format {name!r}{suggest(name, known)}; formats are {', '.join(known)}"
            )
    found = tuple(name for name in FORMATS if name == "cell" or name in names or ALL in names)
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in found and missing:
        raise ExportError(
            f"the format onnx needs the package {missing[0]}: install the extra onnx (pip install 'recell[onnx]'), "
            "or leave it out with --format pt2"
        )
    return found
