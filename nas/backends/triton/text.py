"""What the texts of kernels have in common."""

from __future__ import annotations

from grammar import Type
from nas.backends.triton.body import HELPERS

HEAD = "import triton\nimport triton.language as tl\n\n" + HELPERS
ONE = ("tl.zeros([1], tl.int64)", "tl.full([1], 1, tl.int1)")  # the row of what has none, and that it exists
# Zero, which the compiler cannot know: addresses it would compute before the loop, and hold, are computed in a step.
NOT_KNOWN = "({row} >> 62)"
Loaded = tuple[str, str, Type, str, str]  # what `Emitter.load` takes
