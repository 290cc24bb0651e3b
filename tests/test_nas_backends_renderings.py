"""The table of torch renderings: complete, and open to a user's own operation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grammar import OPS
from nas.backends import RENDERINGS, register_rendering
from nas.errors import BuildError

ROOT = Path(__file__).resolve().parents[1]

# In a process of its own: what is registered stays for the rest of it.
OWN = """
import torch
from grammar import Op, OPS, SCAL, VEC, parse, register
from nas.backends import register_rendering
from nas.nn import build

tanh, add = OPS["tanh"], OPS["add"]
register(Op("hardtanh", (1, 1), tanh.rule, tanh.cost, "a between -1 and 1"))
register(Op("hypot", (2, 2), add.rule, add.cost, "sqrt(a^2 + b^2)", commutative=True))
cell = parse("cell c { state h: vec; h' = hardtanh(2 * lin(x, h)); out hypot(h', lin:scal(x)) }")
try:
    build(cell, 3, 4)(torch.ones(1, 2, 3))
except Exception as error:
    print(type(error).__name__, error)
register_rendering("hardtanh", lambda a: a.clamp(-1, 1))
register_rendering("hypot", torch.hypot)
m = build(cell, 3, 4, heads=2)
x = torch.randn(2, 5, 3, requires_grad=True)
y, h = m(x)
y.sum().backward()
w = m.layers[0].out
plain = torch.hypot(h[0], (x[:, -1] @ w.w0.T + w.b).repeat_interleave(2, -1))
print(float((y[:, -1] - plain).abs().max()) < 1e-6, bool(x.grad.isfinite().all()))
"""


def test_each_operation_has_a_rendering() -> None:
    assert sorted(RENDERINGS) == sorted(OPS)


def test_a_rendering_needs_a_row() -> None:
    with pytest.raises(BuildError, match=r"'cbrt' is not in the table of operations: grammar.register"):
        register_rendering("cbrt", torch.abs)


def test_a_row_has_one_rendering() -> None:
    with pytest.raises(BuildError, match="one rendering, but 'tanh' has one already"):
        register_rendering("tanh", torch.tanh)


def test_users_own_operation() -> None:
    done = subprocess.run([sys.executable, "-c", OWN], cwd=ROOT, capture_output=True, text=True, check=True)
    missing, result = done.stdout.splitlines()
    assert missing.startswith("BuildError the operation 'hardtanh' has no rendering in torch")
    assert result == "True True"
