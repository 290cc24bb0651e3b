"""Log-probabilities against all derivations of small spaces, and weights fitted to cells."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from space_suite import (
    NEW,
    RULED,
    SELF,
    SOME,
    TINY,
    TREES,
    derivations,
    grammar_space,
    plan_of,
    renamed,
    unnamed,
)

from grammar import Cell, Let, make_cell, parse, zoo
from search_spaces import GrammarSpace, NotAMemberError, SpaceError, likelihood, load_space
from search_spaces.check import parse_space
from search_spaces.derivation import dead
from search_spaces.likelihood import Likelihood, _readable
from search_spaces.places import Places
from search_spaces.printer import show_rules
from search_spaces.shapes import in_order

SMALL = {
    "tiny": GrammarSpace(TINY),
    "self": GrammarSpace(SELF),
    "some": GrammarSpace(SOME),
    "new": GrammarSpace(NEW),
    "free": GrammarSpace(TINY.replace("require x, states", "require states")),
    "trees": GrammarSpace(TREES),
}
# With `require new`, and over trees, the share of derivations that are alive is estimated.
EXACT = {name: 0.02 if name in ("new", "trees") else 1e-8 for name in SMALL}


def key(cell: Cell) -> str:
    """The least of the texts under all names of lets and states, with operands and equations in order."""
    lets = [s.name for s in cell.statements if isinstance(s, Let) and not s.primed]
    states = [s.name for s in cell.states]
    found = []
    for a in permutations(lets):
        for b in permutations(states):
            names = {n: f"l{i}" for i, n in enumerate(a)} | {n: f"s{i}" for i, n in enumerate(b)}
            other = renamed(cell, names)
            lines = [str(s.type) + str(s.init) + s.name for s in sorted(other.states, key=lambda s: s.name)]
            equations = Places(other.statements).equations.values()
            lines += sorted(f"{len(e.path)} {e.name} = {in_order(e.expr)}" for e in equations)
            found.append("\n".join([*other.tree.children, str(other.tree.variadic), *lines]))
    return min(found)


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_are_sums_over_all_derivations(name: str) -> None:
    space = SMALL[name]
    totals: Counter[tuple[object, ...]] = Counter()
    alive: dict[str, tuple[Cell, float, tuple[object, ...]]] = {}
    for made, weight in derivations(space):
        plan = plan_of(made)
        totals[plan] += weight  # type: ignore[assignment]
        if dead(space.rules, made) is None:
            cell = made.cell(space.rules)
            before = alive.get(k := key(cell), (cell, 0.0, plan))[1]
            alive[k] = (cell, before + weight, plan)
    whole = sum(w / totals[plan] for _, w, plan in alive.values())
    assert len(alive) > 100
    rng = np.random.default_rng(0)
    for i in rng.permutation(len(alive))[:30]:
        cell, weight, plan = list(alive.values())[i]
        expected = math.log(weight / totals[plan] / whole)
        assert space.log_prob(cell) == pytest.approx(expected, abs=EXACT[name])


@pytest.mark.parametrize("name", ["tiny", "self", "free"])
def test_alive_derivations_are_counted(name: str) -> None:
    space = SMALL[name]
    alive = Counter(m.size(space.rules) for m, _ in derivations(space) if dead(space.rules, m) is None)
    assert space.count(alive=True) == tuple(alive[n] for n in range(space.limits.size + 1))


def test_cells_come_as_often_as_their_probability_says() -> None:
    space, draws = SMALL["tiny"], 2000
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    cells: dict[str, Cell] = {}
    for _ in range(draws):
        cell = space.sample(rng)
        k = unnamed(cell)
        cells[k] = cell
        seen[k] += 1
    frequent = [(key(cells[k]), k) for k, n in seen.items() if n >= 15]
    grouped: dict[str, int] = {}
    for k, n in seen.items():
        grouped[key(cells[k])] = grouped.get(key(cells[k]), 0) + n
    assert len(frequent) > 12
    for k, text in frequent:
        expected = draws * math.exp(space.log_prob(cells[text]))
        assert abs(grouped[k] - expected) < 4.5 * expected**0.5 + 1


@pytest.mark.parametrize("name", ["diagonal", pytest.param("gated", marks=pytest.mark.slow)])
def test_names_and_orders_change_no_probability(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(2)
    for claimed in space.claims[:3]:
        cell = zoo(claimed)
        lets = [s.name for s in cell.statements if isinstance(s, Let) and not s.primed]
        other = renamed(cell, {n: f"q{i}" for i, n in enumerate(lets)})
        body = [other.statements[i] for i in rng.permutation(len(other.statements))]
        other = make_cell("other", other.states[::-1], body)
        assert space.log_prob(other) == pytest.approx(space.log_prob(cell), rel=1e-12)
        assert space.log_prob(cell) < 0


def test_what_is_no_member_has_no_probability() -> None:
    assert load_space("gated").log_prob(zoo("mamba")) == -math.inf
    assert SMALL["tiny"].log_prob(parse("cell c { state h: vec; h' = exp(lin(x, h)); out h' }")) == -math.inf


def test_the_share_that_is_alive_can_be_estimated() -> None:
    likelihood = Likelihood(SMALL["self"]._weighted)
    exact = likelihood.alive
    estimated = np.mean([likelihood._estimated(plan) for plan in likelihood.plans])
    assert estimated == pytest.approx(exact, abs=0.02)


def test_alive_derivations_over_many_lets_are_not_counted() -> None:
    wide = GrammarSpace(TINY.replace("let{0..2}", "let{0..9}").replace("size <= 3", "size <= 9"))
    with pytest.raises(SpaceError, match="space tiny: its alive derivations cannot be counted: up to 9 lets"):
        wide.count(alive=True)
    with pytest.raises(SpaceError, match=r"space news: .* cannot be counted with `require new`"):
        SMALL["new"].count(alive=True)
    with pytest.raises(SpaceError, match=r"space trees: .* cannot be counted over trees"):
        SMALL["trees"].count(alive=True)


# -- fitting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RULED, *SMALL])
def test_a_space_is_printed_and_read_back(name: str) -> None:
    rules = grammar_space(SMALL.get(name) or name).rules
    again = parse_space(show_rules(rules), "again")
    assert again.rules == rules.rules
    assert (again.states, again.let, again.limits, again.forms) == (
        rules.states,
        rules.let,
        rules.limits,
        rules.forms,
    )
    assert (again.name, again.doc, again.claims, again.require) == (
        rules.name,
        rules.doc,
        rules.claims,
        rules.require,
    )
    assert show_rules(again) == show_rules(rules)


@pytest.mark.parametrize("name", ["diagonal", pytest.param("gated", marks=pytest.mark.slow)])
def test_a_fitted_space_finds_its_cells_likelier(name: str) -> None:
    space = grammar_space(name)
    cells = [zoo(z) for z in space.claims[:5]]
    fitted = grammar_space(space.fit(cells, strength=5))
    assert GrammarSpace(fitted.text).rules.rules == fitted.rules.rules
    assert fitted.digest != space.digest
    before, after = (np.mean([s.log_prob(c) for c in cells]) for s in (space, fitted))
    assert after > before + 1
    assert all(zoo(z) in fitted for z in space.claims)
    assert fitted.sample(np.random.default_rng(0)) in space


def test_fitting_counts_the_productions() -> None:
    space = SMALL["tiny"]
    cell = parse("cell c { state h: vec; h' = tanh(lin(x, h)); out h' }")
    fitted = grammar_space(space.fit([cell, cell], strength=4))
    weights = {p.text: p.weight for p in fitted.rules.rules["vec"].productions}
    # two uses each, and four uses by the weights 2 : 1 : 3 : 2 that they had
    assert weights == {"tanh(vec)": 3, "gate * vec": 0.5, "lin(OPS)": 3.5, "$vec": 1}
    assert fitted.rules.let.weights == pytest.approx((4 / 3, 8 / 3), rel=1e-5)


def test_a_cell_of_several_derivations_counts_by_their_mean() -> None:
    text = (
        "space two { limits size <= 3  state{1} vec  out -> $new  vec -> twice [3] | tanh(lin(x, $vec)) [1]"
    )
    space = GrammarSpace(text + "  twice: vec -> tanh(lin(x, $vec)) [1] | lin(x, $vec) [2] }")
    cell = parse("cell c { state h: vec; h' = tanh(lin(x, h)); out h' }")
    fitted = grammar_space(space.fit([cell], strength=8))
    weights = [p.weight for p in fitted.rules.rules["vec"].productions]
    assert weights == [6.5, 2.5]  # 3/4 * 1/3 of it by `twice`, as much as the 1/4 directly


def test_fitting_refuses_what_it_cannot_use() -> None:
    space = SMALL["tiny"]
    with pytest.raises(NotAMemberError, match="not a member of space tiny"):
        space.fit([zoo("lstm")])
    for strength in (0, -1.0, math.nan, math.inf):
        with pytest.raises(SpaceError, match="strength is a number greater than 0; received"):
            space.fit([], strength=strength)


def test_orders_that_no_text_can_have_are_not_looked_at() -> None:
    """Of all orders of fourteen states, 87 thousand million, each new value reads those before it in one."""
    names = [f"h{i}" for i in range(14)]
    uses = {f"{n}'": frozenset(f"{m}'" for m in names[:i]) for i, n in enumerate(names)}
    assert [*_readable([names[::-1]], uses)] == [names]
    assert [*_readable([names[:3][::-1], [], names[3:]], uses)] == [names]
    free = {f"{n}'": frozenset[str]() for n in names}
    assert [*_readable([names[:3], names[3:5]], free)] == [
        [*a, *b] for a, b in product(map(list, permutations(names[:3])), map(list, permutations(names[3:5])))
    ]


def test_a_cell_of_too_many_orders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SMALL["tiny"]
    cell = space.sample(np.random.default_rng(0))
    assert math.isfinite(space.log_prob(cell))
    monkeypatch.setattr(likelihood, "MAX_ORDERS", 0)
    with pytest.raises(SpaceError, match="a sum over at most 0 orders of states and helper names"):
        space.log_prob(cell)
