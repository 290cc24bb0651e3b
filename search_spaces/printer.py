"""Rules back to the text of a space file."""

from __future__ import annotations

import math
from collections.abc import Iterator

from search_spaces.rules import Limits, Rule, Rules, show_weight

DEFAULT_DEPTH = Limits(0).depth


def show_rules(rules: Rules) -> str:
    """A space file of these rules; read back, it has the same rules."""
    return "\n".join(_lines(rules)) + "\n"


def _lines(rules: Rules) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in rules.doc.splitlines())
    yield f"space {rules.name} {{"
    yield f"  limits {', '.join(_limits(rules.limits))}"
    if rules.claims:
        yield f"  claims {', '.join(rules.claims)}"
    if rules.require:
        yield f"  require {', '.join(rules.require)}"
    yield from (f"  {line}" for line in declarations(rules))
    yield from (f"  {_rule(rule)}" for rule in rules.rules.values())
    yield "}"


def declarations(rules: Rules) -> Iterator[str]:
    """The lines about children, states and lets."""
    if rules.trees:
        yield f"children -> {' | '.join(map(str, rules.forms))}"
    yield from map(str, rules.states)
    if rules.let.rules:
        yield str(rules.let)


def _limits(limits: Limits) -> Iterator[str]:
    yield f"size <= {limits.size}"
    if limits.least_size:
        yield f"size >= {limits.least_size}"
    if limits.depth != DEFAULT_DEPTH:
        yield f"depth <= {limits.depth}"
    if limits.states is not None:
        yield f"states <= {limits.states}"
    if limits.least_states:
        yield f"states >= {limits.least_states}"


def _rule(rule: Rule) -> str:
    head = rule.name if rule.name == "out" else heading(rule)
    return f"{head} -> " + " | ".join(f"{p.text}{show_weight(p.weight)}" for p in rule.productions)


def heading(rule: Rule) -> str:
    """A nonterminal and its type, as in `gate: vec`."""
    return f"{rule.name}: {'operands' if rule.type is None else rule.type}"


def rounded(weight: float) -> float:
    """A weight to six digits, as files write them."""
    return float(f"{weight:.6g}") if math.isfinite(weight) else weight
