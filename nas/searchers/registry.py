"""From a name to a searcher: the ones that come with recell, and a user's own as `module:Class`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from grammar import suggest
from nas.errors import NasError, SearchError
from nas.searchers.base import Searcher, SpaceLike

# Modules by name, so that a searcher which needs torch is imported when it is chosen and not before.
SEARCHERS: Mapping[str, str] = MappingProxyType(
    {
        "random": "nas.searchers.random_search:RandomSearch",
        "evolution": "nas.searchers.evolution:Evolution",
        "guided": "nas.searchers.guided:Guided",
        "reinforce": "nas.searchers.reinforce:Reinforce",
        "nsga2": "nas.searchers.nsga2:NSGA2",
        "halving": "nas.searchers.halving:Halving",
        "hyperband": "nas.searchers.halving:Hyperband",
        "oneshot": "nas.searchers.oneshot:OneShot",
        "list": "nas.searchers.listed:Listed",
    }
)

# Further names: those that the literature has for a searcher with some of its options.
SYNONYMS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "predictor": ("guided", MappingProxyType({})),
        "supernet": ("oneshot", MappingProxyType({"method": "uniform"})),
        "darts": ("oneshot", MappingProxyType({"method": "darts"})),
        "gdas": ("oneshot", MappingProxyType({"method": "gdas"})),
    }
)


def searcher_names() -> tuple[str, ...]:
    """The names that `make_searcher` knows, besides those of `SYNONYMS` and `module:Class`."""
    return tuple(SEARCHERS)


def make_searcher(name: str, space: SpaceLike, options: Mapping[str, Any] | None = None) -> Searcher:
    """Make the searcher `name` for a space; `options` are the keyword arguments of its class.

    `name` is one of `searcher_names()` or of `SYNONYMS`, or names a subclass of `Searcher` as `module:Class`: that code
    is run. Raises SearchError for an unknown name and for options that the searcher does not have or cannot take.
    """
    cls = _find(name)
    given = _with_synonym(name, options or {})
    known = list(inspect.signature(cls).parameters.values())[1:]
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
    names = [p.name for p in known if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for option in given:
        if option not in names and not open_ended:
            raise SearchError(
                f"searcher {name} has no option {option!r}{suggest(option, names)} (options are {', '.join(names)})"
            )
    try:
        return cls(space, **given)
    except NasError:
        raise
    except (TypeError, ValueError) as error:
        raise SearchError(f"searcher {name} does not accept its options {given}: {error}") from error


def settled_options(name: str, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a run writes them down: with what files hold in place of the files' names (`Searcher.settled`)."""
    return _find(name).settled(space, _with_synonym(name, options))


def _with_synonym(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those that a synonym stands for. Raises SearchError where the two do not agree."""
    meant, preset = SYNONYMS.get(name, (name, {}))
    for option, value in preset.items():
        if options.get(option, value) != value:
            raise SearchError(
                f"method {name} is {meant} with {option}={value}; received {option}={options[option]}"
            )
    return {**preset, **options}


def _find(name: str) -> type[Searcher]:
    if not isinstance(name, str):  # such as a proposer of another searcher
        raise SearchError(f"a method is a name; received {name!r}")
    meant, _ = SYNONYMS.get(name, (name, {}))
    where = SEARCHERS.get(meant, meant)
    module_name, colon, class_name = where.partition(":")
    if not colon:
        names = ", ".join((*searcher_names(), *SYNONYMS))
        raise SearchError(
            f"unknown method {name!r}{suggest(name, (*SEARCHERS, *SYNONYMS))} (methods are {names}, and your own as "
            "module:Class)"
        )
    sys.path.insert(0, "")  # a user's module may lie in the current directory
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:
        raise SearchError(f"module {module_name} could not be imported: {error}") from error
    finally:
        sys.path.remove("")
    if not (isinstance(found, type) and issubclass(found, Searcher)):
        raise SearchError(f"{where} is not a subclass of nas.searchers.Searcher")
    if inspect.isabstract(found):
        raise SearchError(f"{where} does not define {', '.join(sorted(found.__abstractmethods__))}")
    return found
