"""How much memory a supernet will take, from its graph alone, so that what is too large is never built."""

from __future__ import annotations

from grammar import Cell, CellBuildError, Graph, Sizes
from nas.errors import BuildError
from nas.tasks import Recipe
from search_spaces import Relaxed

NUMBER = 4
COPIES = 4
"""Of each weight: itself, its gradient, and the two means of AdamW."""
KEPT = 2
"""Of each value of a step: itself, kept for the backward pass, and its gradient."""


def estimated_bytes(whole: Graph, run: Graph, sizes: Sizes, recipe: Recipe) -> int:
    """Bytes for the weights of `whole` with their optimiser, and for all values of `run` in one training batch."""
    weights = 0
    for weight in whole.weights:
        for spec in weight.specs:
            size = 2 if spec.complex else 1
            for extent in spec.shape:
                size *= sizes.at(extent)
            weights += size
    values = sum(sizes.at(node.type.width) for node in run.nodes if node.op not in ("num", "param"))
    rows = recipe.batch_size * recipe.sequence_length
    return recipe.num_layers * NUMBER * (COPIES * weights + KEPT * rows * values)


def check_memory(
    relaxed: Relaxed, sizes: Sizes, recipe: Recipe, limit_gb: float, path: Cell | None = None
) -> int:
    """The estimate for the mixture of a sketch, or with `path` for its weights of which such a cell at a time is run.

    Raises BuildError where it is over the limit; nothing is built here.
    """
    try:
        run = relaxed.cell if path is None else path
        need = estimated_bytes(relaxed.cell.graph, run.graph, sizes, recipe)
    except CellBuildError as error:
        raise BuildError(f"sketch {relaxed.sketch.name}: {error}") from None
    gigabytes = need / 1e9
    if gigabytes > limit_gb:
        about = f"{gigabytes:.1f}" if gigabytes >= 1 else f"{gigabytes:.4f}"
        raise BuildError(
            f"the supernet of {relaxed.sketch.name} would take about {about} GB at width {sizes.hidden_size}, "
            f"batches of {recipe.batch_size} and {recipe.sequence_length} steps: more than memory_gb={limit_gb:g}. "
            "Use fewer parameters or a smaller batch, a smaller depth, lift=no, a method that runs one path at a time "
            "(gdas, uniform), or more memory_gb"
        )
    return need
