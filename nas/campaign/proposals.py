"""What becomes of a proposal: a new trial, or an answer out of the record, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from grammar import Cell, fingerprint, lint
from nas.campaign.constraints import Constraint, violations
from nas.campaign.entries import TrialRecord
from nas.campaign.record import Run
from nas.errors import NasError, SearchError
from nas.searchers import Proposal
from nas.training import Recipe

Costs = Callable[[Cell, Recipe], Mapping[str, float]]
"""The metrics of a cell (in canonical form) that need no run; empty where it cannot be built."""


def enter(
    run: Run, proposal: Proposal, costs: Costs, constraints: tuple[Constraint, ...]
) -> tuple[str, dict[str, Any]]:
    """The event that a proposal makes, "ask", "duplicate" or "refuse", and its fields.

    The fingerprint costs milliseconds more than the digest and is asked for only where that is not known. Raises
    SearchError for a proposal that makes no sense: the searcher is wrong then.
    """
    _check(run, proposal)
    cell = proposal.cell
    if proposal.supernet is not None:
        return "ask", {
            "ask": run.asks,
            "text": cell.one_line,
            "digest": cell.digest,
            "canonical": cell.canonical().one_line,
            "operator": proposal.operator,
            "parents": list(proposal.parents),
            "supernet": dict(proposal.supernet),
            "trial": len(run.trials),
        }
    until, recipe = _training(run, proposal)
    source = _continued(run, proposal, until, recipe)
    how = {"until": until, "continues": proposal.continues, "recipe": recipe}
    fields: dict[str, Any] = {
        "ask": run.asks,
        "text": cell.one_line,
        "digest": cell.digest,
        "operator": proposal.operator,
        "parents": list(proposal.parents),
        **{name: value for name, value in how.items() if value is not None},
    }
    known = run.trial_of(cell.digest, until, recipe)
    if known is not None:
        return "duplicate", {**fields, "of": known.id, "by": "digest"}
    if source is not None:
        about = {
            "canonical": source.canonical,
            "fingerprint": source.fingerprint,
            "lints": list(source.lints),
            "metrics": dict(source.metrics),
        }
        return "ask", {**fields, **about, "trial": len(run.trials)}
    refused = run.refusal_of(cell.digest, recipe)
    if refused is not None:
        return "refuse", {**fields, **refused}
    return _examine(run, cell, fields, costs, constraints)


def _examine(
    run: Run, cell: Cell, fields: dict[str, Any], costs: Costs, constraints: tuple[Constraint, ...]
) -> tuple[str, dict[str, Any]]:
    """As `enter`, for a cell that the record does not know by its digest."""
    until, recipe = fields.get("until"), fields.get("recipe")
    canonical = cell.canonical()
    lints = list(dict.fromkeys(warning.name for warning in lint(canonical)))
    if run.config.lint == "strict" and lints:
        return "refuse", {**fields, "lints": lints}
    mark = fingerprint(cell)
    known = run.trial_like(mark, until, recipe)
    if known is not None:
        return "duplicate", {
            **fields,
            "fingerprint": mark,
            "lints": lints,
            "of": known.id,
            "by": "fingerprint",
        }
    metrics = dict(costs(canonical, Recipe.from_dict({**run.task["recipe"], **(recipe or {})})))
    violated = violations(constraints, metrics)
    if violated:
        return "refuse", {**fields, "violates": violated, "metrics": metrics}
    about = {"fingerprint": mark, "lints": lints, "metrics": metrics, "canonical": canonical.one_line}
    return "ask", {**fields, **about, "trial": len(run.trials)}


def _check(run: Run, proposal: object) -> None:
    """Raise SearchError for what a searcher of a user's own may give in place of a proposal."""
    name = run.config.method
    if not isinstance(proposal, Proposal):
        raise SearchError(
            f"method {name} proposed a {type(proposal).__name__}; `ask` gives a Proposal or None"
        )
    if not isinstance(proposal.cell, Cell):
        raise SearchError(
            f"method {name} proposed a {type(proposal.cell).__name__} for a cell; parse it first"
        )
    parents: object = proposal.parents
    if not isinstance(parents, list | tuple) or not all(isinstance(parent, str) for parent in parents):
        raise SearchError(f"method {name} proposed parents that are no digests: {parents!r}")


def _training(run: Run, proposal: Proposal) -> tuple[int | None, dict[str, Any] | None]:
    """How far to train, None for the whole recipe, and the changes to the recipe, None for none."""
    name, steps, full = run.config.method, proposal.steps, run.full_steps
    if steps is not None and (not _whole(steps) or not 1 <= steps <= full):
        raise SearchError(f"method {name} proposed to train {steps!r} steps; the recipe has {full}")
    changes = dict(proposal.recipe or {})
    if "steps" in changes:
        raise SearchError(
            f"method {name} proposed a recipe with its own steps; that is for Proposal.steps to say"
        )
    try:
        whole = Recipe.from_dict({**run.task["recipe"], **changes}).to_dict()
    except NasError as error:
        raise SearchError(f"method {name} proposed a recipe that makes no sense: {error}") from error
    changes = {field: value for field, value in changes.items() if value != run.task["recipe"].get(field)}
    return None if steps == full else steps, {field: whole[field] for field in changes} or None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _continued(
    run: Run, proposal: Proposal, until: int | None, recipe: Mapping[str, Any] | None
) -> TrialRecord | None:
    """The trial that a proposal carries on, None if it is a new one."""
    number = proposal.continues
    if number is None:
        return None
    source = run.trials[number] if 0 <= number < len(run.trials) else None
    same = source is not None and (source.digest, source.recipe) == (proposal.cell.digest, recipe)
    further = source is not None and source.until is not None and source.until < (until or run.full_steps)
    if source is None or not same or not further or source.status != "ok":
        raise SearchError(
            f"method {run.config.method} proposed to carry on trial {number}, which is not one of the same cell and "
            "recipe that was trained less far"
        )
    return source
