"""Cell and Sketch: a text of the language, checked; equal texts are one object."""

from __future__ import annotations

import hashlib
import math
import re
import threading
from collections.abc import Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from grammar.errors import CellTypeError, LocatedError
from grammar.graph import Graph
from grammar.lowering import lower
from grammar.ops import LEAVES
from grammar.parser import CellTree, call_attrs, parse_tree
from grammar.printer import show_tree
from grammar.syntax import Let, State, Statement, expressions
from grammar.types import SEQ, Type

DIGEST_VERSION = 3  # raised when the canonical form of any cell changes; golden digests guard it


class _Text:
    """What cells and sketches share: the tree as written, its graph, its printed text."""

    __slots__ = ("__weakref__", "_canonical", "_digest", "_graph", "_is_canonical", "_text", "tree")

    tree: CellTree
    _graph: Graph | None
    _text: str
    _digest: str | None
    _canonical: Cell | None
    _is_canonical: (
        bool  # known to be its own canonical form; a reference to itself would keep it from being freed
    )

    @property
    def graph(self) -> Graph:
        """Every name resolved, every repetition unrolled, types and weights identified."""
        if self._graph is None:
            object.__setattr__(self, "_graph", lower(self.tree, holes=isinstance(self, Sketch)))
        assert self._graph is not None
        return self._graph

    @property
    def name(self) -> str:
        """The name after the word `cell`."""
        return self.tree.name

    @property
    def states(self) -> tuple[State, ...]:
        """The states, in the order in which they are declared."""
        return self.tree.states

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The other statements, as written."""
        return self.tree.statements

    @property
    def kind(self) -> str:
        """`time` (runs under a scan), `tree` (runs over a tree) or `depth` (over a whole sequence)."""
        if self.tree.children:
            return "tree"
        return "depth" if any(s.type == SEQ for s in self.states) else "time"

    @property
    def one_line(self) -> str:
        """The text on one line."""
        return show_tree(self.tree, one_line=True)

    def __str__(self) -> str:
        return self._text

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable; cannot set {name!r}")


class Cell(_Text):
    """A recurrent or recursive cell, as it was written. Equal texts are the same object.

    Made by `parse` or `make_cell`; `str(cell)` is its text and parses back to the same object.
    """

    __slots__ = ()

    def canonical(self) -> Cell:
        """The cell without what does not matter: names, order, dead code, repeated subexpressions."""
        from grammar.canonical import canonical_tree

        if self._is_canonical:
            return self
        if self._canonical is None:
            found = _intern(Cell, canonical_tree(self.graph))
            object.__setattr__(found, "_is_canonical", True)
            object.__setattr__(self, "_canonical", found)
        assert self._canonical is not None
        return self._canonical

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hex digits: equal digest means equal function."""
        if self._digest is None:
            text = str(self.canonical())
            object.__setattr__(self, "_digest", hashlib.sha256(text.encode()).hexdigest())
        assert self._digest is not None
        return self._digest

    def __repr__(self) -> str:
        return f"parse({self.one_line!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (self._text,)


class Sketch(_Text):
    """A text with holes, `choice{ a | b }`: a supernet, a template, or a constraint for a sampler."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"parse_sketch({self.one_line!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_sketch, (self._text,)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_T = TypeVar("_T", bound=_Text)
_CELLS: WeakValueDictionary[tuple[type, str], Any] = WeakValueDictionary()
_LOCK = threading.Lock()


def parse(text: str, source: str = "<text>") -> Cell:
    """The cell that `text` describes; `source` (a file's name) is shown in errors.

    Raises CellSyntaxError, CellTypeError or UnknownNameError (all GrammarError) with line, column
    and caret; a text with `choice{...}` is a sketch and is refused here.
    """
    tree = parse_tree(text, source)
    try:
        return _intern(Cell, tree)
    except LocatedError as error:
        raise error.locate(text, source) from None


def parse_sketch(text: str, source: str = "<text>") -> Sketch:
    """The sketch that `text` describes; a text without holes is a sketch with one cell in it."""
    tree = parse_tree(text, source)
    try:
        return _intern(Sketch, tree)
    except LocatedError as error:
        raise error.locate(text, source) from None


def make_cell(
    name: str,
    states: Sequence[State],
    statements: Sequence[Statement],
    children: Sequence[str] = (),
    variadic: bool = False,
    sound: bool = False,
) -> Cell:
    """A cell from its parts, checked like a text. Raises CellTypeError or UnknownNameError.

    Parts that are known to be `sound`, since they are of what was checked before, are not checked again: the graph is
    then made when it is first asked for.
    """
    tree = CellTree(name, tuple(children), variadic, tuple(states), tuple(statements))
    if not sound:
        _check(tree)
    return _intern(Cell, tree, sound)


def _check(tree: CellTree) -> None:
    """Raise for what no text can say; the rest is checked when the graph is made."""
    lets = (str(s.name).removesuffix("'") for s in tree.statements if isinstance(s, Let))
    for name in (tree.name, *tree.children, *(s.name for s in tree.states), *lets):
        if not _NAME.fullmatch(name):
            raise CellTypeError(f"a name is a letter or _ and then letters, digits or _; received {name!r}")
    for state in tree.states:
        known = state.init in ("learned", "x", -math.inf)
        if not known and (isinstance(state.init, str) or not math.isfinite(state.init)):
            raise CellTypeError(f"an initial value is a number, -inf, learned, or x; received {state.init}")
    for expr in expressions(tree.statements):
        for node in expr.walk():
            if node.op not in LEAVES:
                attrs = dict(node.attrs)
                kind, size = attrs.pop("type", None), attrs.pop("size", 0)
                type_ = None if kind is None else Type(str(kind), int(size))  # type: ignore[arg-type]
                call_attrs(node.op, len(node.args), type_, [(k, v, None) for k, v in attrs.items()])


def _intern(kind: type[_T], tree: CellTree, sound: bool = False) -> _T:
    text = show_tree(tree)
    with _LOCK:
        known: _T | None = _CELLS.get((kind, text))
    if known is not None:
        return known
    graph = None if sound else lower(tree, holes=kind is Sketch)
    made = kind.__new__(kind)
    parts = {"tree": tree, "_graph": graph, "_text": text, "_digest": None, "_canonical": None,
             "_is_canonical": False}  # fmt: skip
    for name, value in parts.items():
        object.__setattr__(made, name, value)
    with _LOCK:
        kept: _T = _CELLS.setdefault((kind, text), made)
    return kept
