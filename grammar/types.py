"""Types of values, and the one rule by which two values join elementwise.

B batch, D input size, H hidden size, N heads, K key size, V = H / N.
"""

from __future__ import annotations

from dataclasses import dataclass

from grammar.poly import D, H, K, N, Poly


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value: a `kind`, and `size` for `mem(n)`."""

    kind: str
    size: int = 0

    def __str__(self) -> str:
        return f"mem({self.size})" if self.kind == "mem" else self.kind

    @property
    def is_complex(self) -> bool:
        """Whether values are complex numbers."""
        return self.kind in ("cvec", "cmat")

    @property
    def width(self) -> Poly:
        """Numbers per sample (complex ones count once): `vec` is H, `key` N K, `mat` N K V = H K."""
        return Poly.of(self.size) if self.kind == "mem" else _WIDTHS[self.kind]

    @property
    def shape(self) -> str:
        """The shape a reader sees, as in `[B, N, K]`."""
        return f"[B, {self.size}]" if self.kind == "mem" else SHAPES[self.kind]


NUM = Type("num")  # a literal number: joins anything
IN = Type("in")  # x itself
VEC = Type("vec")
KEY = Type("key")
SCAL = Type("scal")
MAT = Type("mat")
CVEC = Type("cvec")
CMAT = Type("cmat")
SEQ = Type("seq")

SHAPES = {
    "num": "[]",
    "in": "[B, D]",
    "vec": "[B, H]",
    "key": "[B, N, K]",
    "scal": "[B, N]",
    "mat": "[B, N, K, V]",
    "cvec": "complex [B, H]",
    "cmat": "complex [B, N, K, V]",
    "seq": "[B, T, H]",
}
_WIDTHS = {
    "num": Poly.of(1),
    "in": D,
    "vec": H,
    "key": N * K,
    "scal": N,
    "mat": H * K,
    "cvec": H,
    "cmat": H * K,
    "seq": H,
}

# Names a text may use. `val` is another name for `vec`: one type seen two ways.
NAMED = {
    "vec": VEC,
    "val": VEC,
    "key": KEY,
    "scal": SCAL,
    "mat": MAT,
    "cvec": CVEC,
    "cmat": CMAT,
    "seq": SEQ,
}

# What joins what, beyond equal types and numbers; the table is used in both orders.
_JOINS: dict[frozenset[str], Type] = {
    frozenset(("in", "vec")): VEC,
    frozenset(("in", "scal")): VEC,
    frozenset(("in", "seq")): SEQ,
    frozenset(("in", "mat")): MAT,
    frozenset(("in", "cvec")): CVEC,
    frozenset(("in", "cmat")): CMAT,
    frozenset(("scal", "key")): KEY,
    frozenset(("scal", "vec")): VEC,
    frozenset(("scal", "mat")): MAT,
    frozenset(("scal", "cvec")): CVEC,
    frozenset(("scal", "cmat")): CMAT,
    frozenset(("scal", "seq")): SEQ,
    frozenset(("key", "mat")): MAT,
    frozenset(("key", "cmat")): CMAT,
    frozenset(("vec", "mat")): MAT,
    frozenset(("vec", "cmat")): CMAT,
    frozenset(("vec", "cvec")): CVEC,
    frozenset(("cvec", "cmat")): CMAT,
    frozenset(("mat", "cmat")): CMAT,
}


def join(a: Type, b: Type) -> Type | None:
    """The type of an elementwise operation on `a` and `b`, or None where they do not join.

    Equal types join; a number joins anything; `scal` joins `key`, `vec`, `mat` per head; `key`
    joins `mat` by rows and `vec` joins `mat` by columns; x joins `vec` where D = H; real values
    join complex ones of the same shape.
    """
    if a == b:
        return a
    if a == NUM:
        return b
    if b == NUM:
        return a
    return _JOINS.get(frozenset((a.kind, b.kind)))
