"""What a one-shot search may be told: how the weights are shared, how the architecture is learned, what it may cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import SearchError

METHODS = ("darts", "darts2", "gdas", "uniform")
SELECTIONS = ("argmax", "perturbation", "sampled")
COSTS = ("params", "flops")


@dataclass(frozen=True)
class SupernetOptions:
    """How a supernet is trained and what is taken from it. Raises SearchError for a value that makes no sense.

    - `method`: "darts" and "darts2" train the mixture of all options and the weights of the options by gradient, first
      and second order (Liu et al. 2019, https://arxiv.org/abs/1806.09055); "gdas" trains one sampled path a step, with
      gradients through a Gumbel softmax (Dong & Yang 2019, https://arxiv.org/abs/1910.04465); "uniform" trains paths
      drawn by the weights of the sketch and learns none (random search with weight sharing, Li & Talwalkar 2019,
      https://arxiv.org/abs/1902.07638; single-path one-shot, Guo et al. 2020).
    - `select`: "argmax" takes the likeliest option of each hole; "perturbation" that whose removal hurts the supernet
      most, hole by hole (DARTS-PT, Wang et al. 2021, https://arxiv.org/abs/2108.04392); "sampled" the best of the
      candidates. None: "sampled" for "uniform", else "argmax".
    - `candidates` cells are drawn from the learned distribution and scored with the shared weights; the `keep` best
      are handed over beside the selected one.
    - `steps` of training (None: the recipe's), of which the fraction `warmup` leaves the architecture alone; `lr` is
      the recipe's for the shared weights, `arch_lr` and `arch_decay` are Adam's for the architecture.
    - `temperature` and `last_temperature`: of the softmax, geometrically from the first step to the last.
    - `cost` ("params" or "flops" of the cell, at the supernet's width) enters the loss as `cost_weight` times the
      expected cost over that of a cell drawn from the sketch (RC-DARTS, https://arxiv.org/abs/1912.12814). With
      `cost_limit` the expected cost never exceeds this number, nor does that of any cell that is handed over
      (as HardCoRe-NAS, https://arxiv.org/abs/2102.11646).
    - `lift`: see `search_spaces.Relaxed`. `depth`: how deep a space of rules is unrolled. `memory_gb`: a supernet whose
      estimated memory is more is refused before it is built. `score_batches`: how many validation batches score a
      candidate.
    """

    method: str = "darts"
    select: str | None = None
    steps: int | None = None
    warmup: float = 0.15
    lr: float | None = None
    arch_lr: float = 0.02
    arch_decay: float = 0.001
    temperature: float = 1.0
    last_temperature: float = 1.0
    candidates: int = 24
    keep: int = 6
    score_batches: int = 4
    tune_steps: int = 4
    cost: str = "params"
    cost_weight: float = 0.0
    cost_limit: float | None = None
    lift: bool = False
    depth: int = 3
    memory_gb: float = 4.0
    backend: str = "auto"

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("cost", self.cost, COSTS)
        if self.select is not None:
            _one_of("select", self.select, SELECTIONS)
        if not isinstance(self.lift, bool):
            raise SearchError(f"oneshot: lift must be yes or no, got {self.lift!r}")
        for name, least in (
            ("candidates", 0),
            ("keep", 0),
            ("score_batches", 1),
            ("tune_steps", 0),
            ("depth", 1),
        ):
            _whole(name, getattr(self, name), least)
        if self.steps is not None:
            _whole("steps", self.steps, 1)
        for name in ("arch_lr", "temperature", "last_temperature", "memory_gb"):
            _number(name, getattr(self, name), above=0.0)
        for name in ("warmup", "arch_decay", "cost_weight"):
            _number(name, getattr(self, name))
        for name in ("lr", "cost_limit"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), above=0.0)
        if self.warmup >= 1:
            raise SearchError(f"oneshot: warmup must be below 1, got {self.warmup!r}")
        if self.method == "uniform" and self.select == "perturbation":
            raise SearchError('oneshot: select="perturbation" is for a mixture; got method="uniform"')

    @property
    def selection(self) -> str:
        """How the first cell is taken from the supernet."""
        return self.select or ("sampled" if self.method == "uniform" else "argmax")

    @property
    def mixed(self) -> bool:
        """Whether the weights are trained in the mixture, not path by path."""
        return self.method in ("darts", "darts2")

    @property
    def runs_mixture(self) -> bool:
        """Whether the mixture is run at all, which is what `backend` is for."""
        return self.mixed or self.selection == "perturbation"

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SupernetOptions:
        """The inverse of `to_dict`. Raises SearchError for unknown fields."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise SearchError(f"oneshot: no option {name!r}; options are {', '.join(known)}")
        return cls(**values)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SearchError(f"oneshot: {name} must be one of {', '.join(allowed)}; got {value!r}")


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SearchError(f"oneshot: {name} must be a whole number of at least {least}, got {value!r}")


def _number(name: str, value: object, above: float | None = None) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (above is not None and value <= above):  # type: ignore[operator]
        rule = "a number of at least 0" if above is None else f"a number above {above:g}"
        raise SearchError(f"oneshot: {name} must be {rule}, got {value!r}")
