"""Polynomials in the sizes of a cell: D (input), H (hidden), N (heads), K (key), with V = H/N."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

VARIABLES = ("D", "H", "N", "K")
_Powers = tuple[int, int, int, int]
_ZERO: _Powers = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Poly:
    """A sum of monomials, exact; powers may be negative (V is `H * N**-1`).

    Evaluate with `.at(input_size=, hidden_size=, heads=, key_size=)`.
    """

    terms: tuple[tuple[_Powers, Fraction], ...] = ()

    def __hash__(self) -> int:
        """Of the numerators only: that of a fraction inverts its denominator each time."""
        return hash(tuple([(powers, coefficient.numerator) for powers, coefficient in self.terms]))

    @staticmethod
    def of(value: int | Fraction | Poly) -> Poly:
        """A constant as a polynomial."""
        if isinstance(value, Poly):
            return value
        return Poly(((_ZERO, Fraction(value)),)) if value else Poly()

    @staticmethod
    def var(name: str, power: int = 1) -> Poly:
        """One size: `name` is D, H, N or K."""
        index = VARIABLES.index(name)
        powers = tuple(power if i == index else 0 for i in range(4))
        return Poly(((powers, Fraction(1)),))  # type: ignore[arg-type]

    @staticmethod
    def _collect(terms: Mapping[_Powers, Fraction]) -> Poly:
        kept = {p: c for p, c in terms.items() if c}
        return Poly(tuple(sorted(kept.items(), key=lambda t: (-sum(t[0]), tuple(-q for q in t[0])))))

    def __add__(self, other: int | Poly) -> Poly:
        terms = dict(self.terms)
        for powers, coefficient in Poly.of(other).terms:
            terms[powers] = terms.get(powers, Fraction(0)) + coefficient
        return Poly._collect(terms)

    __radd__ = __add__

    def __mul__(self, other: int | Fraction | Poly) -> Poly:
        terms: dict[_Powers, Fraction] = {}
        for p, a in self.terms:
            for q, b in Poly.of(other).terms:
                powers = (p[0] + q[0], p[1] + q[1], p[2] + q[2], p[3] + q[3])
                terms[powers] = terms.get(powers, Fraction(0)) + a * b
        return Poly._collect(terms)

    __rmul__ = __mul__

    def __truediv__(self, other: int) -> Poly:
        return self * Fraction(1, other)

    def at(
        self, *, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None
    ) -> int | Fraction:
        """The value at these sizes: an int where it is whole. `key_size` defaults to hidden_size/heads."""
        if key_size is not None:
            whole = self._whole((input_size, hidden_size, heads, key_size))
            if whole is not None:
                return whole
        key = Fraction(hidden_size, heads) if key_size is None else Fraction(key_size)
        sizes = (Fraction(input_size), Fraction(hidden_size), Fraction(heads), key)
        total = Fraction(0)
        for powers, coefficient in self.terms:
            value = coefficient
            for size, power in zip(sizes, powers, strict=True):
                if power:
                    value *= size**power
            total += value
        return int(total) if total.denominator == 1 else total

    def _whole(self, sizes: tuple[int, int, int, int]) -> int | None:
        """The value where every monomial is whole, in plain numbers; None elsewhere."""
        total = 0
        for powers, coefficient in self.terms:
            above, below = coefficient.numerator, coefficient.denominator
            for size, power in zip(sizes, powers, strict=True):
                if power > 0:
                    above *= size**power
                elif power:
                    below *= size**-power
            if above % below:
                return None
            total += above // below
        return total

    def __str__(self) -> str:
        return " + ".join(_monomial(p, c) for p, c in self.terms) or "0"


def _monomial(powers: _Powers, coefficient: Fraction) -> str:
    factors = [
        name if power == 1 else f"{name}^{power}"
        for name, power in zip(VARIABLES, powers, strict=True)
        if power
    ]
    if coefficient != 1 or not factors:
        factors.insert(0, str(coefficient))
    return " ".join(factors)


D, H, N, K = (Poly.var(name) for name in VARIABLES)
V = H * Poly.var("N", -1)
