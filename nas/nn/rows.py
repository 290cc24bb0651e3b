"""What a caller hands to a module, as the rows that a runner takes, and the way back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nas.backends import Steps
from nas.errors import BuildError
from nas.ir import Program, Slot


@dataclass(frozen=True)
class Layout:
    """The steps of a batch, and how it came: padded or packed, batch or time first, one sequence without batch."""

    steps: Steps
    batch_first: bool = True
    packed: PackedSequence | None = None  # the order of the rows, where sequences differ in length
    was_packed: bool = False
    single: bool = False
    total: int = 0  # steps of the padded input, where sequences differ in length

    @property
    def order(self) -> Tensor | None:
        """The caller's place of each sequence here; None where they are the same."""
        return None if self.packed is None else self.packed.sorted_indices

    @property
    def inverse(self) -> Tensor | None:
        """The place here of each of the caller's sequences; None where they are the same."""
        return None if self.packed is None else self.packed.unsorted_indices

    def restore(self, rows: Tensor) -> Tensor | PackedSequence:
        """Rows `[rows, H]` in the form of the input; zero after the end of a sequence."""
        if self.packed is not None:
            p = self.packed
            packed = PackedSequence(rows, p.batch_sizes, p.sorted_indices, p.unsorted_indices)
            if self.was_packed:
                return packed
            return pad_packed_sequence(packed, self.batch_first, total_length=self.total)[0]
        if self.steps.by_sequence:
            return rows.view(self.steps.batch, self.steps.count, rows.shape[1])
        y = rows.view(self.steps.count, self.steps.batch, rows.shape[1])
        if self.single:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y


def as_rows(
    x: Tensor | PackedSequence,
    lengths: Tensor | Sequence[int] | None,
    batch_first: bool,
    width: int,
    by_sequence: bool = False,
) -> tuple[Layout, Tensor]:
    """The layout of x and its rows `[rows, D]`. Raises BuildError where x or the lengths have the wrong shape.

    `by_sequence`: rows may be those of sequence after sequence, which spares a copy.
    """
    check_tensor(x)
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise BuildError("a PackedSequence has its own lengths; received lengths= beside it")
        if x.data.dim() != 2 or x.data.shape[1] != width:
            raise BuildError(f"x must be packed from [..., {width}]; received rows of {list(x.data.shape)}")
        return Layout(Steps(x.batch_sizes.tolist()), packed=x, was_packed=True), x.data
    if x.dim() not in (2, 3) or x.shape[-1] != width or 0 in x.shape:
        wanted = f"[B, T, {width}]" if batch_first else f"[T, B, {width}]"
        raise BuildError(
            f"x must have the shape {wanted}, or [T, {width}] for one sequence, with at least one of each; "
            f"received {list(x.shape)}"
        )
    if x.dim() == 2:
        if lengths is not None:
            raise BuildError("lengths go with a batch of sequences; received one sequence without batch")
        return Layout(Steps.same(1, x.shape[0]), single=True), x
    batch, total = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    checked = None if lengths is None else checked_lengths(lengths, batch, total)
    if checked is None or bool((checked == total).all()):
        whole = batch_first and by_sequence
        rows = (x.transpose(0, 1) if batch_first and not whole else x).reshape(total * batch, width)
        return Layout(Steps.same(batch, total, whole), batch_first), rows
    packed = pack_padded_sequence(x, checked, batch_first, enforce_sorted=False)
    layout = Layout(Steps(packed.batch_sizes.tolist()), batch_first, packed, total=total)
    return layout, packed.data


def check_tensor(x: object) -> None:
    """Raise BuildError where the input is none."""
    if not isinstance(x, (Tensor, PackedSequence)):
        raise BuildError(f"x is a tensor or a PackedSequence; received {type(x).__name__}")


def check_batch(batch: object) -> None:
    """Raise BuildError where a number of sequences is none. While torch traces, a symbol may stand for one."""
    if not isinstance(batch, int | torch.SymInt) or batch < 0:
        raise BuildError(f"init_state takes the number of sequences; received {batch!r}")


def check_dtype(rows: Tensor, weights: Sequence[Tensor], program: Program) -> None:
    """Raise BuildError where the input is not of the weights' type, which torch.autocast alone may change.

    And where that type is one that torch has no complex numbers of, and the cell has complex values.
    """
    kind = weights[0].dtype if weights else rows.dtype
    if kind is torch.bfloat16 and _has_complex(program):
        raise BuildError("torch has no complex bfloat16, and the cell has complex values; float32 holds them")
    if kind is torch.float16 and rows.device.type == "cpu" and _has_complex(program):
        raise BuildError(
            "torch has no maps of complex float16 on a CPU, and the cell has complex values; float32 holds them"
        )
    if rows.dtype is kind:
        return
    casts = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    if not (casts and rows.is_floating_point()):
        raise BuildError(f"x must be {kind}, as the weights are; received {rows.dtype}")


def check_weights(weights: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], program: Program) -> None:
    """Raise BuildError where a layer's arrays are not what its cell was built with: kernels read memory as it is."""
    if not weights:
        return
    kind, place = weights[0].dtype, weights[0].device
    if all(
        w.shape == s and w.dtype is kind and w.device == place for w, s in zip(weights, shapes, strict=True)
    ):
        return
    for array, weight, shape in zip(program.arrays, weights, shapes, strict=True):
        name = f"{program.weights[array.weight].site}.{array.spec.role}"
        if weight.shape != shape:
            raise BuildError(
                f"the weight {name} must have the shape {list(shape)}; received {list(weight.shape)}"
            )
        if weight.dtype is not kind or weight.device != place:
            raise BuildError(
                f"the weights of a layer are of one type and on one device, the first {kind} on {place}; "
                f"{name} is {weight.dtype} on {weight.device}"
            )


def check_numbers(slot: Slot, value: Tensor) -> None:
    """Raise BuildError where a given state is not of the kind of numbers that the slot holds."""
    if value.is_complex() != slot.type.is_complex or not (value.is_complex() or value.is_floating_point()):
        kind = "complex" if slot.type.is_complex else "real floating-point"
        raise BuildError(f"the state {slot.name} is of {kind} numbers; received {value.dtype}")


def _has_complex(program: Program) -> bool:
    types = [*(slot.type for slot in program.slots), *(instr.type for instr in program.instrs)]
    return any(type_.is_complex for type_ in types)


def whole_number(name: str, value: object) -> int:
    """A whole number that a caller gave. Raises BuildError where it is none."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise BuildError(f"{name} is a whole number; received {value!r}")


def check_tokens(tokens: object, batch_first: bool) -> Tensor:
    """The tokens that stand for x. Raises BuildError where they are none."""
    if not isinstance(tokens, Tensor):
        received = type(tokens).__name__
    elif tokens.dim() != 2 or tokens.dtype is not torch.int64 or 0 in tokens.shape:
        received = f"{list(tokens.shape)} of {str(tokens.dtype).removeprefix('torch.')}"
    else:
        return tokens
    wanted = "[B, T]" if batch_first else "[T, B]"
    raise BuildError(f"with table= x is tokens, a tensor {wanted} of int64; received {received}")


def looked_up(
    tokens: Tensor, table: Tensor, lengths: Tensor | Sequence[int] | None, batch_first: bool
) -> Tensor:
    """`table[tokens]` for tokens `[B, T]`; what follows the end of a sequence need not be a token."""
    if lengths is not None:
        batch, total = tokens.shape if batch_first else tokens.shape[::-1]
        ends = checked_lengths(lengths, batch, total).to(tokens.device)
        there = torch.arange(total, device=tokens.device) < ends[:, None]
        tokens = torch.where(there if batch_first else there.t(), tokens, 0)
    return F.embedding(tokens, table)


def checked_lengths(lengths: Tensor | Sequence[int], batch: int, total: int) -> Tensor:
    """Lengths as int64 on the CPU. Raises BuildError unless there is one from 1 to `total` for each sequence."""
    try:
        given = torch.as_tensor(lengths, device="cpu")
        if given.is_floating_point() or given.is_complex() or given.dtype is torch.bool:
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise BuildError(
            f"lengths are {batch} whole numbers from 1 to {total}, one for each sequence; received {lengths!r}"
        ) from None
    found = given.to(torch.int64)
    if found.shape != (batch,) or bool((found < 1).any()) or bool((found > total).any()):
        raise BuildError(
            f"lengths are {batch} whole numbers from 1 to {total}, one for each sequence; received {found.tolist()}"
        )
    return found
