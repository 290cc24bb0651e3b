"""Check that the packages beside `nas` are ours: `grammar` and its like are common names, easily shadowed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SIBLINGS = ("grammar", "search_spaces", "predictors")


def check_siblings(names: tuple[str, ...] = SIBLINGS) -> None:
    """Raise ImportError unless each package lies in the folder that holds `nas`. Nothing is imported."""
    root = Path(__file__).resolve().parents[1]
    for name in names:
        found = _location(name)
        if found != root / name:
            raise ImportError(
                f"nas needs the package `{name}` in {root / name}, but found {found or 'none'}; "
                "another project's package or a file in the working folder has the same name"
            )


def _location(name: str) -> Path | None:
    """The folder of a package, the file of a plain module, None where there is neither."""
    try:
        spec = find_spec(name)
    except ValueError:  # already imported, and without a spec: nothing that we installed
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    place = folders[0] if folders else spec.origin
    return Path(place).resolve() if place else None
