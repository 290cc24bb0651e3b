"""What the user asked of a search: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nas.campaign.constraints import parse_constraint
from nas.errors import RunError

DEVICES = ("auto", "cpu", "cuda")
LINT_MODES = ("warn", "strict")
SEED_LIMIT = 1 << 31


@dataclass(frozen=True)
class SearchConfig:
    """A search campaign. Raises RunError that names the field for a value that makes no sense.

    `budget` is in seconds, from the start of the first trial to the end of the finalists' retraining, summed over all
    sittings. `finalists` best cells and the `baselines` (zoo names or texts of cells) are retrained with `seeds` seeds
    each; 0 finalists means no retraining at all. `params` is the number of trainable parameters that every cell's
    width is matched to (None: the task's own). `max_trials` ends the search after so many candidates.
    `trial_timeout` (seconds) and `trial_memory_gb` (resident set of the worker) abort a trial; None leaves the time to
    the whole budget and the memory to a share of the machine's. With `lint` "warn" the warnings about a cell
    (`grammar.lint`) are recorded with it; with "strict" a cell that has any is not trained. `options` go to the
    searcher. `constraints` (`params<=20000`, see `Constraint`) hold for every cell that is trained. `width` sets the
    width of all models, so that they differ in their parameters, in place of `params`.
    """

    space: str = "gated"
    task: str = "text"
    data: str | None = None
    size: str = "search"
    method: str = "evolution"
    budget: float = 600.0
    workers: int = 2
    address: str | None = None
    device: str = "auto"
    gpus_per_trial: float | None = None
    seed: int = 0
    params: int | None = None
    width: int | None = None
    heads: int = 1
    finalists: int = 3
    seeds: int = 3
    baselines: tuple[str, ...] = ("lstm", "gru")
    max_trials: int | None = None
    trial_timeout: float | None = None
    trial_memory_gb: float | None = None
    lint: str = "warn"
    constraints: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "baselines", tuple(self.baselines))
        limits = [parse_constraint(text) for text in self.constraints]
        object.__setattr__(self, "constraints", tuple(map(str, limits)))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        for name in ("space", "task", "size", "method"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise RunError(f"{name} must be a name, got {getattr(self, name)!r}")
        self._check_numbers()
        if self.device not in DEVICES:
            raise RunError(f"device must be one of {', '.join(DEVICES)}; got {self.device!r}")
        if self.lint not in LINT_MODES:
            raise RunError(f"lint must be one of {', '.join(LINT_MODES)}; got {self.lint!r}")
        if self.data is not None and not str(self.data).strip():
            raise RunError("data must be a file or a folder, got an empty name")
        if self.address is not None and not self.address.strip():
            raise RunError("address must be host:port or auto, got an empty text")

    def _check_numbers(self) -> None:
        for name, least in (("workers", 1), ("heads", 1), ("seeds", 1), ("finalists", 0), ("seed", 0)):
            _check_whole(name, getattr(self, name), least)
        for name in ("params", "width", "max_trials"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        if self.params is not None and self.width is not None:
            raise RunError(f"give params or width, not both; got params={self.params}, width={self.width}")
        if self.width is not None and self.width % self.heads:
            raise RunError(f"width must be a multiple of heads, got width={self.width}, heads={self.heads}")
        if self.seed >= SEED_LIMIT:
            raise RunError(f"seed must be below {SEED_LIMIT}, got {self.seed}")
        _check_positive("budget", self.budget, " seconds")
        for name, unit in (("trial_timeout", " seconds"), ("trial_memory_gb", " GB"), ("gpus_per_trial", "")):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name), unit)
        share = self.gpus_per_trial
        if share is not None and share > 1 and not float(share).is_integer():
            raise RunError(f"gpus_per_trial above 1 must be whole (Ray's rule), got {share}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {name: list(getattr(self, name)) for name in ("baselines", "constraints")}
        return {**values, **lists, "options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchConfig:
        """The inverse of `to_dict`. Raises RunError for an unknown field."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RunError(f"unknown setting {unknown[0]!r}; settings are {', '.join(sorted(known))}")
        return cls(**values)

    def replace(self, **changes: Any) -> SearchConfig:
        """The same search but for `changes`, by field name."""
        return self.from_dict({**self.to_dict(), **changes})


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RunError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_positive(name: str, value: object, unit: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
        raise RunError(f"{name} must be a positive number, got {value!r}{unit if number else ''}")
