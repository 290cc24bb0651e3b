"""A sketch as one cell, its mixture: each hole is the sum of its options, each times a gate, with weights by role.

A role is an operation with weights at its place in the sketch. Every cell of the sketch takes the arrays of the roles
that it has, so a set of arrays for the mixture is one for each cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from grammar import (
    OPS,
    Cell,
    CellTypeError,
    Depth,
    Expr,
    Leaf,
    Repeat,
    Sketch,
    Statement,
    choice,
    make_cell,
    parse_sketch,
    show_state,
    show_statement,
)
from search_spaces.errors import SpaceError
from search_spaces.lifting import lifted
from search_spaces.places import Equation, Path, Places, rebuilt
from search_spaces.templates import Picks, Site, Template, site_of

LARGEST = 4_000
"""Operations that an equation may come to have when choices are lifted into it."""


class Relaxed:
    """A sketch and its mixture.

    `holes` are the sketch's, `gates[i][k]` the name of the gate of option k of hole i: the site of a `param:scal` that
    is not trained. With gates that are 1 for one option of each hole and 0 for the others, the mixture computes what
    `path` of these options computes. `lift` mixes a choice that is a let of its own not where it stands but at the
    first equation through which all its uses go, as DARTS mixes the edges into a node: the equation is computed for
    each option.

    Raises SpaceError where weights stand in a `repeat ... fresh`, and where options cannot be summed.
    """

    def __init__(self, sketch: Sketch, lift: bool = True) -> None:
        self.sketch = sketch
        self._labels: set[str] = set()
        labelled = self._labelled(sketch)
        self.template = Template(labelled)
        self.lift = lift
        self.gates = tuple(
            tuple(self._free(f"gate{i}_{k}") for k in range(len(site.options)))
            for i, site in enumerate(self.holes)
        )

    @property
    def holes(self) -> tuple[Site, ...]:
        """The holes in reading order."""
        return tuple(self.template.sites)

    @cached_property
    def cell(self) -> Cell:
        """The mixture."""
        statements = self.template.statements
        return self._mixture(lifted(statements, LARGEST) if self.lift else statements)

    @cached_property
    def plain(self) -> Cell:
        """The mixture with every choice mixed where it stands."""
        return self._mixture(self.template.statements) if self.lift else self.cell

    def path(self, picks: Picks, gated: bool = False) -> Cell:
        """The cell with these options, its weights named by role; `gated` has each chosen option times its gate."""
        return (self._gated if gated else self.template).cell(picks)

    def derived(self, picks: Picks) -> Cell:
        """The cell with these options as it is in the space: without the names of roles."""
        path = self.path(picks)
        bare = {p: self._bare(e.expr) for p, e in Places(path.statements).equations.items()}
        tree = path.tree
        return make_cell(tree.name, tree.states, rebuilt(path.statements, bare), tree.children, tree.variadic)

    def roles(self, picks: Picks) -> dict[str, str]:
        """For each array of `derived(picks)` by name, the name of its role's array: `{"f.w0": "f_1.w0", ...}`."""
        ours, theirs = self.path(picks).graph.weights, self.derived(picks).graph.weights
        if len(ours) != len(theirs):
            raise SpaceError(f"sketch {self.sketch.name}: two operations with weights have one role")
        return {
            f"{b.site}.{spec.role}": f"{a.site}.{spec.role}"
            for a, b in zip(ours, theirs, strict=True)
            for spec in b.specs
        }

    # -- making the cells -----------------------------------------------------------------------

    @cached_property
    def _gated(self) -> Template:
        def gate(expr: Expr) -> Expr:
            args = tuple(map(gate, expr.args))
            if expr.op == "choice":
                site = site_of(expr)
                return choice([self._times(site, k, a) for k, a in enumerate(args)])
            return Expr(expr.op, args, expr.attrs) if args else expr

        return Template(self._sketch({p: gate(e.expr) for p, e in self.template.places.equations.items()}))

    def _sketch(self, exprs: Mapping[Path, Expr]) -> Sketch:
        return _sketch_of(self.template.sketch, rebuilt(self.template.statements, exprs))

    def _mixture(self, statements: Sequence[Statement]) -> Cell:
        def mix(expr: Expr) -> Expr:
            args = tuple(map(mix, expr.args))
            if expr.op == "choice":
                site = site_of(expr)
                terms = [self._times(site, k, a) for k, a in enumerate(args)]
                total = terms[0]
                for term in terms[1:]:
                    total = Expr("add", (total, term))
                return total
            return Expr(expr.op, args, expr.attrs) if args else expr

        tree = self.sketch.tree
        exprs = {p: mix(e.expr) for p, e in Places(statements).equations.items()}
        body = rebuilt(statements, exprs)
        try:
            return make_cell(f"{tree.name}_mixture", tree.states, body, tree.children, tree.variadic)
        except CellTypeError as error:
            raise SpaceError(
                f"sketch {tree.name} has no mixture: the sum of a hole's options, each times a number, does not stand "
                f"where the hole stands ({error.message})"
            ) from None

    def _times(self, site: int, option: int, expr: Expr) -> Expr:
        attrs = (
            ("fixed", True),
            ("init", 1.0 / len(self.gates[site])),
            ("share", self.gates[site][option]),
            ("type", "scal"),
        )
        return Expr("mul", (Expr("param", (), attrs), expr))

    # -- roles ----------------------------------------------------------------------------------

    def _labelled(self, sketch: Sketch) -> Sketch:
        """The sketch with a label on every operation that has weights and none yet."""
        _refuse_fresh(sketch.statements, sketch.name)
        places = Places(sketch.statements)
        self._taken = {
            str(node.attr("share"))
            for e in places.equations.values()
            for node in e.expr.walk()
            if node.attr("share")
        }
        exprs = {p: self._label(e.expr, e) for p, e in places.equations.items()}
        return _sketch_of(sketch, rebuilt(sketch.statements, exprs))

    def _label(self, expr: Expr, equation: Equation) -> Expr:
        attrs = expr.attrs
        if expr.op in OPS and OPS[expr.op].weights is not None and not expr.attr("share"):
            label = self._free(f"{(equation.name or 'out').replace(chr(39), '_new')}_1")
            self._labels.add(label)
            attrs = tuple(sorted((*attrs, ("share", label)), key=lambda pair: pair[0]))
        return Expr(expr.op, tuple(self._label(a, equation) for a in expr.args), attrs, expr.span)

    def _free(self, name: str) -> str:
        """The name, or with a higher number at its end one that no weight has."""
        stem, number = name.rsplit("_", 1)
        count = int(number)
        while f"{stem}_{count}" in self._taken:
            count += 1
        self._taken.add(f"{stem}_{count}")
        return f"{stem}_{count}"

    def _bare(self, expr: Expr) -> Expr:
        attrs = expr.attrs
        if expr.attr("share") in self._labels:
            attrs = tuple(pair for pair in attrs if pair[0] != "share")
        return Expr(expr.op, tuple(map(self._bare, expr.args)), attrs)


def _sketch_of(sketch: Sketch, statements: Sequence[Statement]) -> Sketch:
    """The sketch with other statements."""
    tree = sketch.tree
    children = f"({'*' if tree.variadic else ''}{', '.join(tree.children)})" if tree.children else ""
    body = [f"state {', '.join(map(show_state, tree.states))}"] if tree.states else []
    body += [show_statement(s) for s in statements]
    return parse_sketch(f"cell {tree.name}{children} {{ {'; '.join(body)} }}")


def _refuse_fresh(statements: Sequence[Statement], name: str) -> None:
    for s in statements:
        if isinstance(s, Repeat) and s.fresh:
            raise SpaceError(
                f"sketch {name} has no mixture: in `repeat {s.times} fresh` one operation has several weights, and a "
                "role has one"
            )
        if isinstance(s, Depth | Leaf | Repeat):
            _refuse_fresh(s.body, name)
