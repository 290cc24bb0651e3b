"""Exports: a cell as files that work without recell. Torch is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.exporters.errors import ExportMismatchError as ExportMismatchError
    from nas.exporters.formats import FORMATS as FORMATS
    from nas.exporters.formats import read_formats as read_formats
    from nas.exporters.names import value_names as value_names
    from nas.exporters.order import ranking as ranking
    from nas.exporters.write import Exported as Exported
    from nas.exporters.write import check_folder as check_folder
    from nas.exporters.write import export as export

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "FORMATS": "nas.exporters.formats",
        "ExportMismatchError": "nas.exporters.errors",
        "Exported": "nas.exporters.write",
        "check_folder": "nas.exporters.write",
        "export": "nas.exporters.write",
        "ranking": "nas.exporters.order",
        "read_formats": "nas.exporters.formats",
        "value_names": "nas.exporters.names",
    },
)
