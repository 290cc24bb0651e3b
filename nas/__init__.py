"""recell: neural architecture search for recurrent and recursive cells.

The public names below resolve on first use (PEP 562), so `import nas` loads neither torch nor ray, and `recell --help`
answers at once. Code inside this distribution imports from the package that defines a name, never from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach
from nas._siblings import check_siblings

if TYPE_CHECKING:
    from grammar import Cell as Cell
    from grammar import GrammarError as GrammarError
    from grammar import Sketch as Sketch
    from grammar import analyse as analyse
    from grammar import from_darts as from_darts
    from grammar import from_nasbench_nlp as from_nasbench_nlp
    from grammar import parse as parse
    from grammar import zoo as zoo
    from grammar import zoo_names as zoo_names
    from nas.campaign import Run as Run
    from nas.campaign import open_run as open_run
    from nas.campaign import search as search
    from nas.errors import NasError as NasError
    from nas.exporters import export as export
    from nas.nn import CellModule as CellModule
    from nas.nn import Stack as Stack
    from nas.nn import build as build
    from nas.nn import from_torch as from_torch
    from nas.searchers import Searcher as Searcher
    from nas.tasks import Task as Task
    from nas.tasks import load_task as load_task
    from search_spaces import Space as Space
    from search_spaces import SpaceError as SpaceError
    from search_spaces import load_space as load_space

__version__ = "0.1.0"

check_siblings()

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Cell": "grammar",
        "CellModule": "nas.nn",
        "GrammarError": "grammar",
        "NasError": "nas.errors",
        "Run": "nas.campaign",
        "Searcher": "nas.searchers",
        "Sketch": "grammar",
        "Space": "search_spaces",
        "SpaceError": "search_spaces",
        "Stack": "nas.nn",
        "Task": "nas.tasks",
        "analyse": "grammar",
        "build": "nas.nn",
        "export": "nas.exporters",
        "from_darts": "grammar",
        "from_nasbench_nlp": "grammar",
        "from_torch": "nas.nn",
        "load_space": "search_spaces",
        "load_task": "nas.tasks",
        "open_run": "nas.campaign",
        "parse": "grammar",
        "search": "nas.campaign",
        "zoo": "grammar",
        "zoo_names": "grammar",
    },
)
