"""Pieces of Python source: an expression with its precedence, and the helper functions that expressions may call."""

from __future__ import annotations

from dataclasses import dataclass

SUM, PRODUCT, UNARY, ATOM = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Code:
    """A Python expression: its text, how tightly it binds, and whether it is a literal number."""

    text: str
    level: int = ATOM
    number: bool = False

    def at(self, level: int) -> str:
        """The text, in parentheses where it binds less tightly than `level`."""
        return f"({self.text})" if self.level < level else self.text

    def method(self, name: str, *args: object) -> Code:
        """A method call on this expression."""
        return Code(f"{self.at(ATOM)}.{name}({', '.join(map(str, args))})")


def call(function: str, *args: Code | str) -> Code:
    """A call of `function`."""
    return Code(f"{function}({', '.join(a.text if isinstance(a, Code) else a for a in args)})")


def infix(symbol: str, left: Code, right: Code) -> Code:
    """`left symbol right` with no more parentheses than it needs."""
    level = SUM if symbol in "+-" else PRODUCT
    return Code(f"{left.at(level)} {symbol} {right.at(level + 1)}", level)


# Functions that a generated file defines when it calls them. `...` stands for the batch, with or without time.
HELPERS: dict[str, str] = {
    "lerp": '''
def lerp(g: Tensor | float, a: Tensor | float, b: Tensor | float) -> Tensor:
    """g * b + (1 - g) * a."""
    return g * b + (1 - g) * a
''',
    "heads": '''
def heads(v: Tensor, n: int) -> Tensor:
    """[..., H] as one row for each head: [..., N, V]."""
    return v.unflatten(-1, (n, -1))
''',
    "spread": '''
def spread(s: Tensor, width: int) -> Tensor:
    """A number per head, [..., N], for every unit of the head: [..., H]."""
    return s.repeat_interleave(width // s.shape[-1], dim=-1)
''',
    "l2norm": '''
def l2norm(a: Tensor) -> Tensor:
    """a / |a| along the last axis."""
    return a / torch.sqrt(a.square().sum(-1, keepdim=True) + 1e-12)
''',
    "rmsnorm": '''
def rmsnorm(a: Tensor) -> Tensor:
    """a / (root mean square of a) along the last axis."""
    return a / torch.sqrt(a.square().mean(-1, keepdim=True) + 1e-6)
''',
    "lnorm": '''
def lnorm(a: Tensor) -> Tensor:
    """Zero mean and unit variance along the last axis."""
    return F.layer_norm(a, a.shape[-1:], eps=1e-5)
''',
    "sqrt1m2": '''
def sqrt1m2(a: Tensor) -> Tensor:
    """sqrt(1 - a^2), 0 where |a| >= 1, with a finite gradient there."""
    square = 1 - a * a
    inside = square > 0
    return torch.where(inside, torch.sqrt(torch.where(inside, square, torch.ones_like(square))), 0.0)
''',
    "modrelu": '''
def modrelu(z: Tensor, b: Tensor | float) -> Tensor:
    """relu(|z| + b) in the direction of z; 0 at z = 0."""
    size = z.abs()
    return torch.where(size > 0, F.relu(size + b) / size.clamp(min=1e-30), 0.0) * z
''',
    "reflect": '''
def reflect(z: Tensor, v: Tensor) -> Tensor:
    """z with its part along v turned round, along the last axis; z where v is 0."""
    size = v.abs().square().sum(-1, keepdim=True)
    return z - 2 * v * ((v.conj() * z).sum(-1, keepdim=True) / torch.where(size > 0, size, 1.0))
''',
    "block_linear": '''
def block_linear(a: Tensor, w: Tensor) -> Tensor:
    """A block-diagonal map: block i of `a` [..., n * in] by w[i] [out, in], joined again."""
    return torch.einsum("...ni,noi->...no", a.unflatten(-1, (w.shape[0], -1)), w).flatten(-2)
''',
    "shift": '''
def shift(a: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """`a` [B, T, ...] one step later, beginning with `last` [B, ...]; and the new last one."""
    return torch.cat([last.unsqueeze(1), a[:, :-1]], 1), a[:, -1]
''',
    "conv": '''
def conv(a: Tensor, last: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution of `a` [B, T, *S] by w [units, k], tap 0 the oldest; and the new last k - 1.

    `last` [B, k - 1, *S] are the steps before the first.
    """
    steps = torch.cat([last, a], 1)
    taps = w.unflatten(0, a.shape[2:])
    return (steps.unfold(1, w.shape[1], 1) * taps).sum(-1), steps[:, a.shape[1] :]
''',
    "legt": '''
def legt(part: str, *shape: int, theta: float) -> Tensor:
    """`A` or `B` of the Legendre delay system of a window of theta steps (Voelker et al., 2019), held over a step."""
    i = torch.arange(shape[-2], dtype=torch.float64)[:, None]
    a = torch.where(i < i.T, -1.0, (-1.0) ** (i - i.T + 1))
    system = (2 * i + 1) / theta * torch.cat([a, (-1.0) ** i], 1)
    held = torch.linalg.matrix_exp(F.pad(system, (0, 0, 0, 1)))[:-1]
    return (held[:, :-1] if part == "A" else held[:, -1:]).float().expand(shape).clone()
''',
    "fourier": '''
def fourier(*shape: int, sign: int) -> Tensor:
    """The unitary discrete Fourier transform, or with sign -1 its inverse, as pairs of real numbers."""
    transform = torch.fft.fft if sign > 0 else torch.fft.ifft
    return torch.view_as_real(transform(torch.eye(shape[-2]), norm="ortho").resolve_conj()).expand(shape).clone()
''',
    "permutation": '''
def permutation(*shape: int, pairs: bool) -> Tensor:
    """Random permutation matrices; with `pairs` as complex numbers, pairs of real ones."""
    places = torch.rand(shape[: -2 if pairs else -1]).argsort(-1)
    matrix = F.one_hot(places, places.shape[-1]).float()
    return torch.stack([matrix, torch.zeros_like(matrix)], -1) if pairs else matrix
''',
    "orthogonal": '''
def orthogonal(*shape: int, gain: float, pairs: bool) -> Tensor:
    """Random matrices with orthonormal rows or columns, whichever are fewer, times `gain`.

    With `pairs` unitary ones, as pairs of real numbers.
    """
    *blocks, rows, columns = shape[:-1] if pairs else shape
    kind = torch.complex64 if pairs else torch.float32
    q, r = torch.linalg.qr(torch.randn(*blocks, max(rows, columns), min(rows, columns), dtype=kind))
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    q = gain * q * (diagonal / diagonal.abs()).unsqueeze(-2)
    matrix = q if rows >= columns else q.mT
    return torch.view_as_real(matrix) if pairs else matrix
''',
    "uniform": '''
def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A weight drawn from U(-s, s), s = 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
''',
}


def wrapped(line: str, limit: int = 100) -> list[str]:
    """A statement on lines of at most `limit` characters where its brackets allow: the last one is opened up."""
    if len(line) <= limit:
        return [line]
    tail = ":" if line.endswith("):") else ""
    if not line.endswith(f"){tail}"):
        return [line]
    depth, start = 0, 0
    for start in range(len(line) - 1 - len(tail), -1, -1):
        depth += {")": 1, "]": 1, "(": -1, "[": -1}.get(line[start], 0)
        if depth == 0:
            break
    pad = " " * (len(line) - len(line.lstrip()))
    inner = line[start + 1 : len(line) - 1 - len(tail)]
    if not inner:
        return [line]
    whole, several = f"{pad}    {inner}", split_commas(inner)
    # A comma behind a single part would make a tuple of what is only grouped.
    one_line = len(whole) <= limit or len(several) == 1
    parts = [whole] if one_line else [f"{pad}    {part}," for part in several]
    return [line[: start + 1], *(each for part in parts for each in wrapped(part, limit)), f"{pad}){tail}"]


def split_commas(text: str) -> list[str]:
    """The parts between the commas that stand in no bracket."""
    parts, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    return [*parts, text[begin:].strip()]
