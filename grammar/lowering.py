"""Syntax tree to graph: resolves names, checks types and well-formedness, unrolls repetition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from grammar.blocks import Block, changes, reads, title, writes
from grammar.errors import CellTypeError, Span, UnknownNameError, suggest
from grammar.graph import Graph, Node, Region, Weight
from grammar.mentions import mentioned_states
from grammar.ops import OPS, RuleError, WeightSpec, weight_specs
from grammar.parser import KEYWORDS, CellTree
from grammar.printer import show_expr, show_init
from grammar.syntax import Depth, Expr, Leaf, Let, Out, Repeat, State, Statement, choice_weights, spread
from grammar.types import IN, NUM, SCAL, SEQ, VEC, Type

MAX_NODES = 20_000  # after unrolling
MAX_SUM = 5_000  # values in one `sum`, each written where it stands
_Path = tuple[int, ...]  # a place in the text; paths sort in reading order


def lower(tree: CellTree, holes: bool = False) -> Graph:
    """The graph of a cell. Raises CellTypeError or UnknownNameError with the place of the fault.

    `holes` allows `choice{...}`: then the graph is of a sketch.
    """
    return _Lowering(tree, holes).run()


@dataclass
class _Scope:
    """Names visible in one block: own equations, the blocks in it, and what stands around it."""

    path: _Path  # names weights: the same in every sub-step of a `repeat`, but for `fresh`
    statements: Sequence[Statement]
    plain: dict[str, int]  # the value that a state's plain name has here
    outer: _Scope | None = None
    suffix: str = ""
    values: dict[str, int] = field(default_factory=dict)
    lets: dict[str, Let] = field(default_factory=dict)


class _Lowering:
    def __init__(self, tree: CellTree, holes: bool) -> None:
        self.tree = tree
        self.holes = holes
        self.links: dict[str, tuple[float, ...]] = {}  # of choices by name: the weights of their options
        self.nodes: list[Node] = []
        self.known: dict[Node, int] = {}
        self.turning: set[int] = set()  # the nodes that change from round to round of `depth n until(...)`
        self.weights: dict[_Path | str, int] = {}  # by place, or by the label of `share=`
        self.sites: list[tuple[_Path, Weight]] = []
        self.names: set[str] = set()
        self.states = {s.name: s for s in tree.states}
        self.region: Region | None = None
        self.steps = 0  # equations of all sub-steps so far
        self.equal_width = False
        self.in_sum = False
        self.in_leaf = False
        self.seq = any(s.type == SEQ for s in tree.states)

    # -- the whole cell ---------------------------------------------------------------------

    def run(self) -> Graph:
        self._declarations()
        plain: dict[str, int] = {}
        if not self.tree.children:
            plain = {s.name: self._leaf("state", s.type, name=s.name) for s in self.tree.states}
        scope = self._scope((), self.tree.statements, plain, None)
        self._solve(scope)
        following = tuple(self._next(s, scope) for s in self.tree.states)
        outs = [(i, s) for i, s in enumerate(self.tree.statements) if isinstance(s, Out)]
        if len(outs) != 1:
            span = outs[1][1].span if outs else self.tree.span
            raise CellTypeError(f"a cell has one `out`; received {len(outs)}", span)
        place, statement = outs[0]
        out = self._typed(statement.expr, scope, (place,), "out")
        self._expect("out", out, SEQ if self.seq else VEC, statement.expr)
        leaf = self._leaf_block()
        order = sorted(range(len(self.sites)), key=lambda i: self.sites[i][0])
        renumber = {old: new for new, old in enumerate(order)}
        nodes = tuple(
            Node(n.op, n.args, n.attrs, n.type, renumber[n.weight]) if n.weight >= 0 else n
            for n in self.nodes
        )
        weights = tuple(self.sites[i][1] for i in order)
        return Graph(
            nodes, self.tree.states, following, out, weights, leaf, self.region,
            self.tree.children, self.tree.variadic, self.equal_width, mentioned_states(self.tree.statements),
        )  # fmt: skip

    def _declarations(self) -> None:
        if len(self.states) < len(self.tree.states):
            names = [s.name for s in self.tree.states]
            twice = next(s for i, s in enumerate(self.tree.states) if s.name in names[:i])
            raise CellTypeError(f"a state is declared once; {twice.name!r} is declared twice", twice.span)
        for state in self.tree.states:
            self._reserved(state.name, state.span)
            if state.name in self.tree.children:
                raise CellTypeError(f"{state.name!r} names both a child and a state", state.span)
            if self.seq and state.type != SEQ:
                raise CellTypeError(
                    f"where one state is a seq all are; {state.name!r} is {state.type}", state.span
                )
            if state.init == "x" and state.type != SEQ:
                raise CellTypeError(
                    f"only a seq state begins as x; {state.name!r} is {state.type}", state.span
                )
            self.equal_width |= state.init == "x"
        if self.seq and self.tree.children:
            raise CellTypeError("a tree cell has no seq states", self.tree.span)
        leaves = [s for s in self.tree.statements if isinstance(s, Leaf)]
        if self.tree.children and len(leaves) != 1:
            raise CellTypeError(
                f"a tree cell has one `leaf {{ ... }}` block; received {len(leaves)}", self.tree.span
            )
        if leaves and not self.tree.children:
            raise CellTypeError("only a tree cell, as in `cell t(l, r)`, has a `leaf` block", leaves[0].span)

    def _reserved(self, name: str, span: Span | None) -> None:
        if name.rstrip("'") in KEYWORDS:
            raise CellTypeError(f"{name!r} is a word of the language and cannot be defined", span)

    def _leaf_block(self) -> tuple[int, ...] | None:
        for place, statement in enumerate(self.tree.statements):
            if isinstance(statement, Leaf):
                self.in_leaf = True
                scope = self._scope((place,), statement.body, {}, None, "leaf")
                for inner in statement.body:
                    if isinstance(inner, Out):
                        raise CellTypeError("`out` stands outside the leaf block", inner.span)
                self._solve(scope)
                return tuple(self._next(s, scope, statement.span) for s in self.tree.states)
        return None

    def _next(self, state: State, scope: _Scope, span: Span | None = None) -> int:
        primed = f"{state.name}'"
        if primed not in scope.values:
            raise CellTypeError(
                f"the state {state.name!r} needs an equation `{primed} = ...`", span or state.span
            )
        return scope.values[primed]

    # -- equations in order -----------------------------------------------------------------

    def _scope(
        self, path: _Path, body: Sequence[Statement], plain: dict[str, int], outer: _Scope | None,
        suffix: str = "",
    ) -> _Scope:  # fmt: skip
        scope = _Scope(path, body, plain, outer, suffix)
        taken: dict[str, Span | None] = {}
        for statement in body:
            if isinstance(statement, Let):
                self._definable(statement, scope)
                names = [statement.name]
                scope.lets[statement.name] = statement
            elif isinstance(statement, Block):
                names = list(writes(statement))
                for let in changes(statement):
                    self._declared(let)
                if not names:
                    raise CellTypeError("a block writes at least one state, as in `h' = ...`", statement.span)
            else:
                continue
            for name in names:
                if name in taken:
                    raise CellTypeError(
                        f"each name has one equation in a step; {name!r} has two", statement.span
                    )
                taken[name] = statement.span
        return scope

    def _definable(self, let: Let, scope: _Scope) -> None:
        self._reserved(let.name, let.span)
        self._declared(let)
        if let.name in self.states:
            raise CellTypeError(
                f"{let.name!r} is a state: its new value is written `{let.name}' = ...`", let.span
            )
        if let.name in self.tree.children:
            raise CellTypeError(f"{let.name!r} is a child and cannot be defined", let.span)
        around = scope.outer
        while around is not None:
            if let.name in around.lets:
                raise CellTypeError(f"each name has one equation; {let.name!r} has two", let.span)
            around = around.outer

    def _declared(self, let: Let) -> None:
        if let.primed and let.name[:-1] not in self.states:
            raise UnknownNameError(
                f"{let.name} is the new value of a state, but no state {let.name[:-1]!r} is declared"
                f"{suggest(let.name[:-1], self.states)}",
                let.span,
            )

    def _solve(self, scope: _Scope) -> None:
        """Lower the equations of `scope` in an order in which each comes after what it uses."""
        units = [(i, s) for i, s in enumerate(scope.statements) if isinstance(s, Let | Block)]
        owner = {name: i for i, s in units for name in ([s.name] if isinstance(s, Let) else writes(s))}
        by_index = dict(units)
        needs = {i: list(dict.fromkeys(owner[n] for n in reads(s) if n in owner)) for i, s in units}
        done: set[int] = set()
        for first, _ in units:
            active: dict[int, Iterator[int]] = {} if first in done else {first: iter(needs[first])}
            while active:
                index, rest = active.popitem()
                following = next((n for n in rest if n not in done), None)
                if following is None:
                    done.add(index)
                    self._define(scope, index, by_index[index])
                    continue
                active[index] = rest
                if following in active:
                    way = list(active)
                    cycle = [*way[way.index(following) :], following]
                    names = " -> ".join(title(by_index[i]) for i in cycle)
                    raise CellTypeError(
                        f"equations of one step may not depend on each other in a circle: {names}"
                        " (a plain state name is its previous value)",
                        by_index[following].span,
                    )
                active[following] = iter(needs[following])

    def _define(self, scope: _Scope, index: int, statement: Let | Block) -> None:
        path = (*scope.path, index)
        if not isinstance(statement, Let):
            self._unroll(scope, path, statement)
            return
        site = statement.name.rstrip("'")
        value = self._typed(statement.expr, scope, path, _site(site, scope.suffix))
        if statement.primed:
            self._expect(statement.name, value, self.states[site].type, statement.expr)
        scope.values[statement.name] = value

    def _unroll(self, scope: _Scope, path: _Path, block: Block) -> None:
        written = [name[:-1] for name in writes(block)]
        for statement in block.body:
            if isinstance(statement, Out | Leaf):
                raise CellTypeError("only equations stand inside a block", statement.span)
        if isinstance(block, Depth) and block.until is not None:
            self._halting(scope, path, block, written)
            return
        plain = dict(scope.plain)
        for name in written:
            if name not in plain:
                plain[name] = self._begun(name, block)
        inner = scope
        for step in range(block.times):
            fresh = isinstance(block, Repeat) and block.fresh
            suffix = f"{scope.suffix}s{step + 1}" if fresh else scope.suffix
            own = (*path, step) if fresh else path
            inner = self._scope(own, block.body, plain, scope, suffix)
            self._solve(inner)
            plain = {**plain, **{n: inner.values[f"{n}'"] for n in written}}
            self.steps += len(block.body)
            if max(len(self.nodes), self.steps) > MAX_NODES:
                raise CellTypeError(f"a cell unrolls to at most {MAX_NODES:,} values", block.span)
        for name in written:
            scope.values[f"{name}'"] = inner.values[f"{name}'"]

    def _begun(self, name: str, block: Block) -> int:
        """In a tree cell: the declared initial value of a state, with which a block begins.

        As a value that any text can hold it is 0 times a child's, plus the number.
        """
        state = self._begins(name, block)
        value = self._leaf("child", state.type, child=self.tree.children[0], state=name)
        if self.tree.variadic:
            value = self._add(Node("sum", (value,), (), state.type))
        value = self._add(Node("mul", (self._leaf("num", NUM, value=0.0), value), (), state.type))
        if state.init:
            value = self._add(Node("add", (value, self._leaf("num", NUM, value=state.init)), (), state.type))
        return value

    def _begins(self, name: str, block: Block) -> State:
        """A state of a tree cell with which a block may begin."""
        state = self.states[name]
        if isinstance(state.init, str) or not math.isfinite(state.init):
            raise CellTypeError(
                f"in a tree cell a block begins with a state's initial value, which is a number; "
                f"{name!r} begins as {state.init if isinstance(state.init, str) else show_init(state.init)}",
                block.span,
            )
        if self.in_leaf:
            raise CellTypeError("a leaf has no children, and no blocks", block.span)
        return state

    def _halting(self, scope: _Scope, path: _Path, block: Depth, written: list[str]) -> None:
        if self.region is not None or scope.outer is not None:
            raise CellTypeError("a cell has one `depth n until(...)`, outside other blocks", block.span)
        plain = {**scope.plain}
        for name in written:
            if self.tree.children:
                self._begins(name, block)
                self._leaf("state", self.states[name].type, name=name)
            plain[name] = self._leaf("carry", self.states[name].type, name=name)
        inner = self._scope(path, block.body, plain, scope, scope.suffix)
        self._solve(inner)
        assert block.until is not None
        until = self._typed(block.until, inner, (*path, -1), "until")
        self._expect("until", until, SCAL, block.until)
        following = tuple(inner.values[f"{n}'"] for n in written)
        self.region = Region(block.times, until, tuple(written), following)
        for name in written:
            scope.values[f"{name}'"] = self._leaf("final", self.states[name].type, name=name)

    # -- expressions ------------------------------------------------------------------------

    def _typed(self, expr: Expr, scope: _Scope, path: _Path, site: str) -> int:
        if expr.op in ("x", "num"):
            return self._leaf(expr.op, IN if expr.op == "x" else NUM, **dict(expr.attrs))
        if expr.op == "ref":
            return self._name(expr, scope)
        if expr.op == "child":
            return self._child(expr)
        if expr.op == "sum":
            return self._sum(expr, scope, path, site)
        args = tuple(self._typed(a, scope, (*path, i), site) for i, a in enumerate(expr.args))
        types = [self.nodes[a].type for a in args]
        if expr.op == "choice":
            return self._choice(expr, args, types)
        op = OPS[expr.op]
        if expr.op in ("shift", "conv"):
            self._looks_back(expr, args)
        if expr.op in ("attn", "posemb", "top") and not self.seq:
            raise CellTypeError(f"`{expr.op}` works on a whole sequence: declare seq states", expr.span)
        attrs = dict(expr.attrs)
        try:
            result = op.rule(types, attrs)
        except RuleError as error:
            raise CellTypeError(f"type mismatch in `{show_expr(expr)}`: {error}", expr.span) from None
        if expr.op == "lin" and self.seq and "type" not in attrs:
            result = SEQ
        elif expr.op == "lin" and SEQ in types and not self.seq:
            raise CellTypeError("a seq is used where no state is a seq", expr.span)
        if expr.op not in ("lin", "param") and IN in types and result != IN:
            self.equal_width = True
        weight = self._weight(expr, types, result, path, site) if op.weights else -1
        kept = tuple((k, v) for k, v in expr.attrs if k not in ("share", "init", "fixed", "type", "size"))
        return self._add(Node(expr.op, args, kept, result, weight))

    def _looks_back(self, expr: Expr, args: tuple[int, ...]) -> None:
        """Refuse `shift` and `conv` of what has no value at the step before."""
        if self.tree.children:
            raise CellTypeError(f"`{expr.op}` looks back in time, and a tree cell has no steps", expr.span)
        alone = expr.op == "conv" and expr.attr("k", 4) == 1  # it sees the present alone
        if not (self.seq or alone or self.turning.isdisjoint(args)):
            raise CellTypeError(
                f"`{expr.op}` looks back in time, but its operand changes within a step, inside"
                " `depth n until(...)`",
                expr.span,
            )

    def _name(self, expr: Expr, scope: _Scope) -> int:
        name = str(expr.attr("name"))
        if name in scope.plain:
            return scope.plain[name]
        around: _Scope | None = scope
        while around is not None:
            if name in around.values:
                return around.values[name]
            around = around.outer
        if name in self.states and self.tree.children:
            raise CellTypeError(
                f"a tree cell reads its children's states: write {self.tree.children[0]}.{name}", expr.span
            )
        if name in self.tree.children:
            raise CellTypeError(f"{name!r} is a child: name one of its states, as in {name}.h", expr.span)
        visible = {"x", *self.states, *(f"{s}'" for s in self.states)}
        around = scope
        while around is not None:
            visible |= around.lets.keys()
            around = around.outer
        raise UnknownNameError(f"unknown name {name!r}{suggest(name, visible)}", expr.span)

    def _child(self, expr: Expr) -> int:
        child, state = str(expr.attr("child")), str(expr.attr("state"))
        if child not in self.tree.children:
            known = (
                f"its children are {', '.join(self.tree.children)}" if self.tree.children else "it has none"
            )
            raise UnknownNameError(
                f"unknown child {child!r}: {known}{suggest(child, self.tree.children)}", expr.span
            )
        if self.in_leaf:
            raise CellTypeError("a leaf has no children", expr.span)
        if state not in self.states:
            raise UnknownNameError(f"unknown state {state!r}{suggest(state, self.states)}", expr.span)
        if self.tree.variadic and not self.in_sum:
            raise CellTypeError(
                f"`{child}` stands for any number of children: use it inside sum(...)", expr.span
            )
        return self._leaf("child", self.states[state].type, child=child, state=state)

    def _sum(self, expr: Expr, scope: _Scope, path: _Path, site: str) -> int:
        wrong = ""
        if not self.tree.variadic or self.in_sum or self.in_leaf:
            wrong = "`sum` is over the children of a cell declared `cell t(*k)`, and is not nested"
        elif not any(e.op == "child" for e in expr.args[0].walk()):
            wrong = "`sum` needs a child inside, as in sum(k.h)"
        elif spread(expr.args[0]) > MAX_SUM:
            wrong = f"a `sum` holds at most {MAX_SUM:,} values, square(a) and silu(a) written as products"
        if wrong:
            raise CellTypeError(wrong, expr.span)
        self.in_sum = True
        arg = self._typed(expr.args[0], scope, (*path, 0), site)
        self.in_sum = False
        return self._add(Node("sum", (arg,), (), self.nodes[arg].type))

    def _choice(self, expr: Expr, args: tuple[int, ...], types: list[Type]) -> int:
        link, weights, wrong = str(expr.attr("link", "")), choice_weights(expr), ""
        if not self.holes:
            wrong = "a cell has no choice{...}: this text is a sketch (parse_sketch reads it)"
        elif len({*types}) > 1:
            wrong = f"the options of a choice have one type; received {', '.join(map(str, types))}"
        elif link and self.links.setdefault(link, weights) != weights:
            wrong = f"choices of one name have as many options, equally weighted; those of {link!r} differ"
        if wrong:
            raise CellTypeError(wrong, expr.span)
        return self._add(Node("choice", args, (), types[0]))

    def _expect(self, name: str, index: int, wanted: Type, expr: Expr) -> None:
        received = self.nodes[index].type
        if received == IN and wanted in (VEC, SEQ):
            self.equal_width = True
        elif received != wanted:
            raise CellTypeError(f"`{name}` is {wanted}; received {received}", expr.span)

    def _leaf(self, op: str, type_: Type, **attrs: object) -> int:
        return self._add(Node(op, (), tuple(sorted(attrs.items())), type_))  # type: ignore[arg-type]

    def _add(self, node: Node) -> int:
        index = self.known.get(node)
        if index is None:
            index = self.known[node] = len(self.nodes)
            self.nodes.append(node)
            if node.op == "carry" or not self.turning.isdisjoint(node.args):
                self.turning.add(index)
        return index

    # -- weights ----------------------------------------------------------------------------

    def _weight(self, expr: Expr, types: Sequence[Type], result: Type, path: _Path, site: str) -> int:
        attrs = dict(expr.attrs)
        rule = OPS[expr.op].weights
        assert rule is not None
        init, fixed = attrs.get("init"), bool(attrs.get("fixed", False))
        specs = weight_specs(rule, types, expr.attrs, result)
        label = attrs.get("share")
        if attrs.get("transpose"):
            if label is None or attrs.get("bias", True) or len(types) != 1:
                raise CellTypeError("transpose=yes goes with share=NAME, bias=no and one operand", expr.span)
            first = specs[0]
            shape = (*first.shape[:-2], first.shape[-1], first.shape[-2])
            specs = (WeightSpec(first.role, shape, first.fan_in, first.complex),)
        key = path if label is None else str(label)
        if key in self.weights:
            index = self.weights[key]
            have = self.sites[index][1]
            if label is None:
                return index
            if not _same_arrays(have, expr.op, specs):
                raise CellTypeError(
                    f"share={label} names weights of one shape; received {_shapes(have.specs)}"
                    f" and {_shapes(specs)}",
                    expr.span,
                )
            if (have.init, have.fixed) != (init, fixed):
                raise CellTypeError(f"share={label} names weights of one `init` and one `fixed`", expr.span)
            if len(specs) > len(have.specs):
                self.sites[index] = (self.sites[index][0], replace(have, specs=specs))
            return index
        name = str(label) if label is not None else site
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        made = Weight(unique, expr.op, specs, init, fixed, None if label is None else str(label))
        self.weights[key] = len(self.sites)
        self.sites.append((path, made))
        return self.weights[key]


def _same_arrays(have: Weight, op: str, specs: tuple[WeightSpec, ...]) -> bool:
    mine = {(s.role, s.shape, s.complex) for s in have.specs}
    theirs = {(s.role, s.shape, s.complex) for s in specs}
    return have.op == op and (theirs <= mine or mine <= theirs)


def _shapes(specs: tuple[WeightSpec, ...]) -> str:
    return ", ".join(f"{s.role} [{', '.join(map(str, s.shape))}]" for s in specs)


def _site(name: str, suffix: str) -> str:
    return f"{suffix}_{name}" if suffix == "leaf" else f"{name}_{suffix}" if suffix else name
