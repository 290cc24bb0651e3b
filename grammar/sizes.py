"""The sizes a cell is built with: D, H, N, K and what follows from them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from grammar.errors import CellBuildError
from grammar.graph import Graph
from grammar.ops import shape_of
from grammar.poly import Poly
from grammar.types import Type


@dataclass(frozen=True, slots=True)
class Sizes:
    """Input size D, hidden size H, heads N and key size K; V = H / N. Made by `Sizes.of`."""

    input_size: int
    hidden_size: int
    heads: int
    key_size: int

    @staticmethod
    def of(input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> Sizes:
        """Sizes that fit each other; `key_size` defaults to hidden_size / heads.

        Raises CellBuildError where one is not positive or `heads` does not divide `hidden_size`.
        """
        given = {"input_size": input_size, "hidden_size": hidden_size, "heads": heads}
        for name, value in (given if key_size is None else given | {"key_size": key_size}).items():
            if value < 1:
                raise CellBuildError(f"{name} is at least 1; received {value}")
        if hidden_size % heads:
            raise CellBuildError(
                f"heads divides hidden_size; received heads={heads} and hidden_size={hidden_size}"
            )
        return Sizes(input_size, hidden_size, heads, key_size or hidden_size // heads)

    @property
    def value_size(self) -> int:
        """V = H / N, the part of a `vec` that one head sees."""
        return self.hidden_size // self.heads

    def at(self, poly: Poly) -> int:
        """A polynomial at these sizes. Raises CellBuildError where it is not whole."""
        value = poly.at(
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            heads=self.heads,
            key_size=self.key_size,
        )
        if not isinstance(value, int):
            raise CellBuildError(f"a size must be whole; received {poly} = {value} at {self}")
        return value

    def shape(self, type_: Type) -> tuple[int, ...]:
        """The shape of one value of a type, without batch and time: `(H,)` for `vec`, `(N, K, V)` for `mat`."""
        return _shape(self, type_)

    def check(self, graph: Graph) -> None:
        """Raise CellBuildError where a cell cannot take these sizes."""
        if graph.equal_width and self.input_size != self.hidden_size:
            raise CellBuildError(
                "this cell uses x elementwise where a vec stands, so input_size equals hidden_size; "
                f"received input_size={self.input_size} and hidden_size={self.hidden_size}"
            )
        if graph.k_is_v and self.key_size != self.value_size:
            raise CellBuildError(
                f"`{graph.k_is_v}` sees a val as a key or the reverse, so key_size equals hidden_size / heads; "
                f"received key_size={self.key_size} and hidden_size / heads = {self.value_size}"
            )
        for weight in graph.weights:
            for spec in weight.specs:
                try:
                    tuple(self.at(extent) for extent in spec.shape)
                except CellBuildError as error:
                    shape = ", ".join(map(str, spec.shape))
                    raise CellBuildError(
                        f"the weight {weight.site}.{spec.role} [{shape}] does not fit: {error}"
                    ) from None

    def __str__(self) -> str:
        return (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, heads={self.heads}, "
            f"key_size={self.key_size}"
        )


@functools.lru_cache(4096)  # an interpreter asks for the same few at every step
def _shape(sizes: Sizes, type_: Type) -> tuple[int, ...]:
    return () if type_.kind == "num" else tuple(sizes.at(extent) for extent in shape_of(type_))
