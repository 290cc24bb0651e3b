"""The weights of a space fitted to cells: how often their derivations use each production."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from search_spaces.likelihood import LET, Share, Use
from search_spaces.printer import rounded
from search_spaces.rules import Rule, Rules


def fit(rules: Rules, shares: Iterable[Share], strength: float) -> Rules:
    """The rules with weights `uses + strength * share`, share being what the production had among its rule's.

    One step of expectation maximisation: a cell with several derivations counts by their mean under the weights until
    now. `strength` is how many uses of each nonterminal those are worth.
    """
    used: dict[Use, float] = {}
    for share in shares:
        for use, n in share.uses.items():
            used[use] = used.get(use, 0.0) + n
    let = rules.let
    weights = tuple(
        rounded(used.get((LET, i), 0.0) + strength * weight / sum(let.weights))
        for i, weight in enumerate(let.weights)
    )
    fitted = {name: _fitted(rule, used, strength) for name, rule in rules.rules.items()}
    return replace(rules, let=replace(let, weights=weights), rules=fitted)


def _fitted(rule: Rule, used: Mapping[Use, float], strength: float) -> Rule:
    productions = tuple(
        replace(p, weight=rounded(used.get((rule.name, i), 0.0) + strength * p.weight / rule.total))
        for i, p in enumerate(rule.productions)
    )
    return replace(rule, productions=productions)
