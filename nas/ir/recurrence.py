"""What kind of recurrence each circle of a normal program is, forward or backward: what a kernel may be chosen by.

The classes are those of `grammar.analyse`, on what kernels run: complex states are pairs of real ones, and the adjoint
of any cell is affine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import networkx

from grammar import Type
from nas.ir.builder import UNARY
from nas.ir.program import Instr, Program

MIXINGS = ("none", "elementwise", "block", "dense")
_LINEAR = ("neg", "stopgrad", "add", "sub", "cast", "reduce", "lin", "tokey", "toval")
_PRODUCTS = ("mul", "outer", "read", "readt")
_ONE_HEAD = ("reduce", "hmax", "read", "readt", "tokey", "toval")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Slots that depend on each other in a circle, and how they go from step to step, all else known.

    `body` are the instructions on the circle. `mixing` says which entries of the slots one entry sees (`elementwise`,
    `block`: those of its head, or of its one of `blocks` equal parts, `dense`), `degree` by what function (`affine`,
    `max-plus`, `nonlinear`). `structure` is `diagonal` or `diagonal-plus-low-rank` where all slots are matrices and the
    step is affine, S <- A S + B or S <- S A + B (`side` is `key` or `value`), then `rank` bounds what is beside the
    diagonal. `products` is the longest chain of linear maps on the circle within a step.
    """

    slots: tuple[int, ...]
    body: tuple[int, ...]
    mixing: str
    degree: str
    blocks: str = ""
    structure: str = ""
    rank: int = 0
    side: str = ""
    products: int = 0

    @property
    def parallel(self) -> bool:
        """Whether all steps can be computed without going through them one after the other."""
        return bool(self.structure) or (self.mixing == "elementwise" and self.degree != "nonlinear")

    def __str__(self) -> str:
        if self.structure:
            rank = f" (rank {self.rank})" if self.rank else ""
            return f"matrix-affine, {self.structure.replace('-', ' ')}{rank}"
        return f"{self.mixing} {self.degree}"


def recurrences(program: Program) -> tuple[Recurrence, ...]:
    """The circles through the slots of a normal program, each after those it depends on."""
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(len(program.instrs)))
    for k, instr in enumerate(program.instrs):
        graph.add_edges_from((a, k) for a in instr.args)
        if instr.op == "state":
            graph.add_edge(program.slots[instr.slot].next, k)
    found = []
    condensed = networkx.condensation(graph)
    members = {c: sorted(condensed.nodes[c]["members"]) for c in condensed}
    for component in networkx.lexicographical_topological_sort(condensed, key=lambda c: members[c][0]):
        body = members[component]
        if len(body) > 1 or graph.has_edge(body[0], body[0]):
            found.append(_recurrence(program, tuple(body)))
    return tuple(found)


def _recurrence(program: Program, body: tuple[int, ...]) -> Recurrence:
    flows: dict[int, _Flow] = {}
    for k in body:
        instr = program.instrs[k]
        flows[k] = _LEAF if instr.op == "state" else _through(program, instr, k, flows)
    slots = tuple(sorted({program.instrs[k].slot for k in body if program.instrs[k].op == "state"}))
    whole = _join([flows[program.slots[s].next] for s in slots])
    matrices = all(program.slots[s].type.kind == "mat" for s in slots)
    structure, side = _structure(whole) if matrices and whole.affine else ("", "")
    return Recurrence(
        slots,
        body,
        MIXINGS[whole.level],
        "affine" if whole.affine else "max-plus" if whole.max_plus else "nonlinear",
        whole.blocks if whole.level == 2 else "",
        structure,
        len(whole.ranks) if side else 0,
        side,
        whole.products,
    )


def _structure(flow: _Flow) -> tuple[str, str]:
    side = {"left": "key", "right": "value"}.get(flow.form, "")
    return ("diagonal", "") if flow.form == "diagonal" else ("diagonal-plus-low-rank" if side else "", side)


# ---- one value --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Flow:
    """How a value depends on the slots of a circle.

    `form` describes an affine dependence on matrices S [K, V]: `diagonal` (entry by entry), `left` (each column by
    itself), `right` (each row), `read` (a vec, each entry from its own column), `readt` (a key, each from its own row),
    `other`. `ranks` are the instructions that add a rank beside the diagonal.
    """

    level: int = 1  # into MIXINGS
    blocks: str = ""
    affine: bool = True
    max_plus: bool = True
    form: str = "diagonal"
    ranks: frozenset[int] = frozenset()
    products: int = 0


_LEAF = _Flow()


def _join(flows: Sequence[_Flow]) -> _Flow:
    """What holds of a value that sees all of these as they are."""
    level, blocks = flows[0].level, flows[0].blocks
    for flow in flows[1:]:
        level, blocks = _coarser(level, blocks, flow.level, flow.blocks)
    return _Flow(
        level,
        blocks,
        all(f.affine for f in flows),
        all(f.max_plus for f in flows),
        _one_form({f.form for f in flows}),
        frozenset().union(*(f.ranks for f in flows)),
        max(f.products for f in flows),
    )


def _one_form(forms: set[str]) -> str:
    if len(forms) == 1:
        return next(iter(forms))
    return next((side for side in ("left", "right") if forms == {"diagonal", side}), "other")


def _coarser(level: int, blocks: str, other: int, others: str) -> tuple[int, str]:
    """The finer of all partitions that both keep."""
    if level < 2 or other < 2:
        return (level, blocks) if level > other else (other, others)
    if (level, blocks) == (other, others):
        return level, blocks
    if level == 3 or other == 3 or "heads" in (blocks, others):
        return 3, ""
    common = math.gcd(int(blocks), int(others))
    return (2, str(common)) if common > 1 else (3, "")


def _through(program: Program, instr: Instr, k: int, flows: Mapping[int, _Flow]) -> _Flow:
    """The flow of an instruction on the circle, of whose operands at least one is on it."""
    moving = [p for p, a in enumerate(instr.args) if a in flows]
    types = [program.instrs[a].type for a in instr.args]
    whole = _join([flows[instr.args[p]] for p in moving])
    level, blocks = _coarser(whole.level, whole.blocks, *_mixing(instr, types))
    affine, max_plus = _degree(instr.op, moving, whole)
    form, added = _form(instr, k, moving, types, whole.form) if affine else ("other", False)
    ranks = whole.ranks | {k} if added else whole.ranks
    return replace(
        whole,
        level=level,
        blocks=blocks,
        affine=affine,
        max_plus=max_plus,
        form=form,
        ranks=ranks,
        products=whole.products + (instr.op == "lin"),
    )


def _mixing(instr: Instr, types: Sequence[Type]) -> tuple[int, str]:
    """Which entries of its operands one entry of a result sees."""
    if instr.op == "lin":
        blocks = str(instr.attr("blocks", 1))
        flat = all(t.kind in ("in", "vec") for t in (*types, instr.type))
        if blocks == "1" or (blocks != "heads" and not flat) or "mem" in (types[0].kind, instr.type.kind):
            return 3, ""
        return 2, blocks
    if instr.op in _ONE_HEAD:
        return (3, "") if "mem" in (types[0].kind, instr.type.kind) else (2, "heads")
    spread = instr.op == "cast" and types[0].kind == "mem"
    return (3, "") if spread else (1, "")


def _degree(op: str, moving: Sequence[int], whole: _Flow) -> tuple[bool, bool]:
    """Whether a result is affine, and whether it is affine in the max-plus algebra."""
    alone = len(moving) == 1
    if op in _LINEAR:
        kept = op in ("add", "stopgrad", "cast") or (op == "sub" and moving == [0])
        return whole.affine, whole.max_plus and kept and alone
    if op in _PRODUCTS:
        return whole.affine and alone, False
    if op == "div":
        return whole.affine and moving == [0], False
    return False, whole.max_plus and op in ("max", "hmax")


def _form(instr: Instr, k: int, moving: Sequence[int], types: Sequence[Type], form: str) -> tuple[str, bool]:
    """The form of an affine result, and whether it adds a rank."""
    if instr.op in ("read", "readt"):
        side = {"read": "left", "readt": "right"}[instr.op]
        return (instr.op if form in ("diagonal", side) and list(moving) == [0] else "other"), False
    if instr.op == "reduce" and types[0].kind == "mat":
        kinds = {"vec": ("read", "left"), "key": ("readt", "right")}
        found, side = kinds.get(instr.type.kind, ("other", ""))
        return (found if form in ("diagonal", side) else "other"), False
    if instr.op == "outer":
        made = {"read": "left"} if list(moving) == [1] else {"readt": "right"}
        return made.get(form, "other"), form in made
    if instr.op == "cast" and instr.type.kind == "mat":
        made = {"read": "left", "readt": "right"}
        return made.get(form, "other"), form in made
    if instr.op in UNARY or instr.op in ("add", "sub", "mul", "div"):
        return form, False
    return "other", False
