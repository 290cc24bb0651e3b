"""Any searcher under Ray Tune: `tune.Tuner(trainable(...), tune_config=tune.TuneConfig(search_alg=TuneSearcher(...)))`.

For those who have Tune and its schedulers; `recell search` does not need it. What Tune brings with it (2.60):

- Set `max_concurrent_trials`: without it Tune stages one trial at a time. With `reuse_actors=True` the overhead is some
  tens of milliseconds for each trial, without it seconds; trials shorter than an actor's start (some seconds) can
  leave a reused slot idle for good.
- `on_trial_complete` is called for a trial that a scheduler stopped, too. A result with `"final": False` is such a
  one: the searcher is told that it was hopeless, since what it has is not the score of a whole training.
- An error is taken for the machine's. A cell that is to blame ends with a metric that is not a number, and may say
  how it failed with "status" ("diverged", "invalid", "hopeless", "oom", "timeout").
- A driver that is killed loses the results since its last snapshot (every 10 s or more, at each checkpoint with
  `num_to_keep=1`); `Tuner.restore` gives the searcher the state that belongs to them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher as RaySearcher

from grammar import Cell, parse
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher
from nas.searchers.halving import Halving
from nas.searchers.registry import make_searcher, settled_options
from nas.searchers.trainable import trainable as trainable
from search_spaces import Space, load_space, read_space, space_names

SCHEMA = 1
FAILED = ("diverged", "invalid", "hopeless", "oom", "timeout")
"""What a result without a score may say of itself."""
ASKS = 50  # for one suggestion that is new


class TuneSearcher(RaySearcher):
    """Asks a searcher by name for cells, and tells it what Tune reports.

    A suggestion is `{"cell": text of the canonical form, "digest": ..., "operator": ...}`, and what the searcher
    changes in the recipe by field ("lr", ...). Trainings that are carried on are the business of Tune's schedulers. A
    result may bring "steps" and "final" beside the metric. Its state is a JSON file of what was asked and told, from
    which `restore` makes it again; the space is in it as text.
    """

    def __init__(
        self,
        space: str,
        method: str = "evolution",
        options: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        """`space` is a name or file of a space; `method` and `options` are those of `recell search`.

        `recipe` is the task's own ("steps", "lr", ...), for searchers that change it. `metric` and `mode` ("min" or
        "max") are those of the TuneConfig, of which Tune tells searchers only where it has a param_space.
        """
        super().__init__(metric=metric, mode=mode)
        found = load_space(space)
        settled = settled_options(method, found, dict(options or {}))
        self._setting: dict[str, Any] = {
            "space": [found.name, found.text],
            "method": method,
            "options": settled,
            "seed": seed,
            "recipe": dict(recipe or {}),
        }
        self._begin()

    def _begin(self) -> None:
        setting = self._setting
        space = _space(*setting["space"])
        self._searcher: Searcher = make_searcher(setting["method"], space, setting["options"])
        self._refuse(setting["method"])
        if setting["recipe"]:
            self._searcher.begin(setting["recipe"])
        elif setting["options"].get("recipe"):
            raise SearchError(
                f"{setting['method']} is to search the recipe: give that of the task, TuneSearcher(recipe=...)"
            )
        self._log: list[dict[str, Any]] = []
        self._asks = 0
        self._under_way: dict[str, int] = {}  # Tune's id -> the number of a trial
        self._proposals: list[Proposal] = []  # by the number of the trial
        self._trials: dict[str, int] = {}  # key -> the number of the trial
        self._told: dict[int, Observation] = {}

    def _refuse(self, method: str) -> None:
        """Raise SearchError for a searcher that wants more than Tune gives, before any trial runs."""
        if self._searcher.objectives != ("loss",):
            raise SearchError(f"{method} minimises more than the loss; Tune reports that alone")
        if isinstance(self._searcher, Halving):
            raise SearchError(f"{method} trains in rungs; Tune's schedulers do that")
        if self._searcher.planned():
            raise SearchError(f"{method} trains supernets; Tune is given cells alone")

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take metric and mode from the TuneConfig."""
        self._metric = metric or self._metric
        self._mode = mode or self._mode
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next new cell; None while a trial under way may open the way; FINISHED if the space is exhausted.

        Raises SearchError where nobody said which metric counts, and how: every trial would be told of as diverged.
        """
        one: object = self._metric  # Tune may give a list
        if not isinstance(one, str) or not one or self._mode not in ("min", "max"):
            raise SearchError(
                'one metric and its mode are needed, as in TuneSearcher(..., metric="score", mode="min"): without a '
                "param_space Tune does not tell searchers what its TuneConfig has; "
                f"got {self._metric!r}, {self._mode!r}"
            )
        for _ in range(ASKS):
            proposal = self._searcher.ask(np.random.default_rng([self._setting["seed"], self._asks]))
            self._asks += 1
            if proposal is None:
                break
            if proposal.steps is not None or proposal.continues is not None:
                raise SearchError(f"{self._setting['method']} trains in rungs; Tune's schedulers do that")
            if proposal.supernet is not None:
                raise SearchError(f"{self._setting['method']} trains supernets; Tune is given cells alone")
            known = self._trials.get(_key(proposal))
            if known is None:
                self._note({"entered": trial_id, **_written(proposal)})
                cell = proposal.cell
                config = {"cell": cell.canonical().one_line, "digest": cell.digest}
                return {**config, "operator": proposal.operator, **(proposal.recipe or {})}
            if known in self._told:
                self._note({"duplicate": known, **_written(proposal)})
        return None if self._under_way else RaySearcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the searcher: the metric, or a failure if there is none or it is not a number.

        Without a result a scheduler has stopped a trial that it had paused.
        """
        if trial_id not in self._under_way:
            return
        found = result or {}
        value = found.get(self._metric or "")
        score = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        said = "hopeless" if result is None else found.get("status")
        failed = said if said in FAILED else "diverged"
        status = "infrastructure" if error else failed if score is None else "ok"
        if status == "ok" and not found.get("final", True):
            status = "hopeless"
        if status != "ok" or score is None:
            score = None
        elif self._mode == "max":
            score = -score
        steps = found.get("steps")
        self._note({"told": trial_id, "score": score, "status": status, "steps": steps})

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Tell the searcher of a cell that was trained elsewhere: `parameters["cell"]` and its metric.

        One that was `pruned` was not trained to its end, and counts as hopeless. Raises SearchError for a cell that is
        no member of the space: it could not be varied.
        """
        proposal = Proposal(parse(parameters["cell"]), "evaluated")
        space: Any = self._searcher.space
        if proposal.cell not in space:
            raise SearchError(f"{proposal.cell.one_line} is not a member of the space {space.name}")
        trial_id = f"evaluated-{len(self._proposals)}"
        if _key(proposal) not in self._trials:
            self._note({"entered": trial_id, **_written(proposal)})
            self.on_trial_complete(trial_id, {self._metric or "": value, "final": not pruned}, error)

    def _note(self, event: dict[str, Any]) -> None:
        """Write an event down and fold it in: all state is made here, so that `restore` makes the same."""
        self._log.append(event)
        if "told" in event:
            number = self._under_way.pop(event["told"])
            outcome = event["score"], event["status"], number
            observation = _observed(self._proposals[number], *outcome, steps=event["steps"])
            self._told[number] = observation
            self._searcher.tell(observation)
            return
        made = parse(event["text"]), event["operator"], tuple(event["parents"])
        proposal = Proposal(*made, recipe=event["recipe"])
        if "duplicate" in event:
            known = self._told[event["duplicate"]]
            outcome = known.score, known.status, event["duplicate"]
            self._searcher.tell(_observed(proposal, *outcome, duplicate=True, steps=known.steps))
            return
        number = len(self._proposals)
        self._proposals.append(proposal)
        self._trials[_key(proposal)] = number
        self._under_way[event["entered"]] = number
        self._searcher.entered(proposal, number)

    # -- state ----------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What `save` writes: JSON can hold it."""
        return {
            "schema": SCHEMA,
            **self._setting,
            "metric": self._metric,
            "mode": self._mode,
            "asks": self._asks,
            "log": list(self._log),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Be the searcher that `get_state` was asked of."""
        if state.get("schema") != SCHEMA:
            raise SearchError(
                f"the state of a searcher has schema {SCHEMA} here; received {state.get('schema')!r}"
            )
        self._setting = {name: state[name] for name in ("space", "method", "options", "seed", "recipe")}
        self._metric, self._mode = state["metric"], state["mode"]
        self._begin()
        for event in state["log"]:
            self._note(event)
        self._asks = state["asks"]

    def save(self, checkpoint_path: str) -> None:
        """Write the state to a file, as JSON."""
        Path(checkpoint_path).write_text(json.dumps(self.get_state()), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read the state of a file that `save` wrote; what was made since then is forgotten."""
        try:
            state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
            self.set_state(state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SearchError(f"{checkpoint_path} is no state of a searcher: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self.set_state(state)


def _space(name: str, text: str) -> Space:
    """The space of this text; a shipped one is made once in a process."""
    if name in space_names() and load_space(name).text == text:
        return load_space(name)
    return read_space(text, name)


def _written(proposal: Proposal) -> dict[str, Any]:
    return {
        "text": proposal.cell.one_line,
        "operator": proposal.operator,
        "parents": list(proposal.parents),
        "recipe": None if proposal.recipe is None else dict(proposal.recipe),
    }


def _key(proposal: Proposal) -> str:
    """What two proposals share that are the same trial."""
    changes = "" if proposal.recipe is None else json.dumps(dict(proposal.recipe), sort_keys=True)
    return proposal.cell.digest + changes


def _observed(
    proposal: Proposal,
    score: float | None,
    status: str,
    trial: int,
    *,
    duplicate: bool = False,
    steps: int | None = None,
) -> Observation:
    cell: Cell = proposal.cell
    made = (proposal.operator, proposal.parents, duplicate)
    return Observation(cell, cell.digest, score, status, trial, *made, steps=steps, recipe=proposal.recipe)
