"""What a trial is asked to do and what came of it, as JSON can hold them. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nas.errors import TrainingError
from nas.tasks import Recipe, check_fields

Device = Literal["cpu", "cuda"]
Status = Literal["ok", "diverged", "invalid", "hopeless"]


@dataclass(frozen=True)
class TrialSpec:
    """All that decides the outcome of a trial: the same spec gives the same losses in another process (one thread).

    `cell` is the text that is trained. `params` is the budget of trainable parameters that the width is matched to;
    `width` sets the width itself; with neither, the budget is the task's default. `data_digest` is that of the data
    the trial is meant for ("" trusts what is found). `device` is "cpu" or "cuda". `policy` is that of a tree cell
    (None: "given", the parse that the task has). `until` is the step to stop after, None for the recipe's last: the
    learning rate is that of the whole recipe at each step, so that a shorter trial is the beginning of a longer one.
    With `supernet` it is no cell that is trained but a supernet over many, which `nas.supernet.train_trial` does:
    `cell` stands for those of the sketch that it names.
    """

    cell: str
    task: str
    recipe: Recipe
    data: str | None = None
    data_digest: str = ""
    size: str = "search"
    params: int | None = None
    width: int | None = None
    heads: int = 1
    seed: int = 0
    device: Device = "cpu"
    backend: str = "auto"
    policy: str | None = None
    until: int | None = None
    supernet: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.params is not None and self.width is not None:
            raise TrainingError(
                f"trial: give params or width, not both; got params={self.params}, width={self.width}"
            )
        for name, least in (("params", 1), ("width", 1), ("heads", 1), ("seed", 0), ("until", 1)):
            value = getattr(self, name)
            if value is None and name in ("params", "width", "until"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise TrainingError(
                    f"trial: {name} must be a whole number of at least {least}, got {value!r}"
                )
        if self.until is not None and self.until > self.recipe.steps:
            raise TrainingError(
                f"trial: until must be at most the recipe's {self.recipe.steps} steps, got {self.until}"
            )
        if self.width is not None and self.width % self.heads:
            raise TrainingError(
                f"trial: width must be a multiple of heads, got width={self.width}, heads={self.heads}"
            )
        if self.device not in ("cpu", "cuda"):
            raise TrainingError(f'trial: device must be "cpu" or "cuda", got {self.device!r}')

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)

    @property
    def steps(self) -> int:
        """How many steps are taken."""
        return self.recipe.steps if self.until is None else self.until

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """The inverse of `to_dict`. Raises TrainingError for unknown and missing fields."""
        fields = check_fields(cls, values, "trial")
        return cls(**{**fields, "recipe": Recipe.from_dict(fields["recipe"])})

    def replace(self, **changes: Any) -> TrialSpec:
        """The same trial but for `changes`, by field name."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial. Only "ok" has a `score`; the other endings have a `message` that says what happened.

    - "ok": trained to the end; `score` is that of the validation split, `test_score` of the test split if asked for.
    - "invalid": the cell cannot be built, at least not with this width or budget; nothing was trained.
    - "diverged": the loss or the score stopped being a finite number.
    - "hopeless": after a third of the steps the loss was still above that of the trivial answer.

    `curve` holds (step, mean training loss per answer since the entry before it); `params` is the exact number of
    trainable parameters. For information only: `seconds` of wall-clock time, and `start`, the step that a snapshot was
    carried on from (0 without one); neither has a part in what came of it. `fallback` says why the cell ran on the
    reference although a faster backend was meant to run it; empty where none was missed. `found` are the cells that a
    supernet gives, the best first: each has "cell", "digest" and "score", which is that with the shared weights;
    `passed` is in how many of its steps the path drawn could not be trained, so that nothing was learned.
    """

    status: Status
    score: float | None = None
    test_score: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    params: int = 0
    width: int = 0
    steps: int = 0
    seconds: float = 0.0
    message: str = ""
    start: int = 0
    fallback: str = ""
    found: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), hash=False)
    passed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: a loss that is not finite becomes None."""
        curve = [[step, loss if math.isfinite(loss) else None] for step, loss in self.curve]
        return {**dataclasses.asdict(self), "curve": curve, "found": [dict(found) for found in self.found]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialResult:
        """The inverse of `to_dict`. Raises TrainingError for unknown and missing fields."""
        fields = check_fields(cls, values, "result")
        curve = tuple(
            (int(step), math.nan if loss is None else float(loss)) for step, loss in fields.get("curve", ())
        )
        return cls(**{**fields, "curve": curve, "found": tuple(fields.get("found", ()))})
