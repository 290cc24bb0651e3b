"""Stack: embedding or linear map, cell, head."""

from __future__ import annotations

import copy

import pytest
import torch

from grammar import zoo
from nas.errors import BuildError
from nas.nn import CellModule, Ensemble, Stack, State, build, detach_state


def test_tokens_become_outputs() -> None:
    stack = Stack(zoo("lstm"), inputs=11, outputs=7, width=6, num_layers=2)
    logits, state = stack(torch.randint(11, (3, 5)))
    assert logits.shape == (3, 5, 7)
    assert [part.shape for part in state] == [(2, 3, 6)] * 2
    assert isinstance(stack.cell, CellModule)


def test_numbers_become_outputs() -> None:
    stack = Stack(zoo("gru"), inputs=2, outputs=7, width=6, embed=False)
    logits, state = stack(torch.randn(3, 5, 2))
    assert logits.shape == (3, 5, 7)
    assert state.shape == (1, 3, 6)


def test_text_goes_on_where_it_stopped() -> None:
    stack = Stack(zoo("lstm"), inputs=11, outputs=7, width=6)
    tokens = torch.randint(11, (3, 8))
    whole, end = stack(tokens)
    first, state = stack(tokens[:, :5])
    state = detach_state(state)
    assert not any(part.requires_grad for part in state)
    second, after = stack(tokens[:, 5:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(after, end)


@pytest.mark.parametrize("lengths", [None, [20, 7, 13]])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ["lstm", "hgrn", "gated_deltanet", "sru", "qrnn", "rwkv4", "s4d"])
def test_maps_of_a_table_are_those_of_its_rows(name: str, layers: int, lengths: list[int] | None) -> None:
    stack = Stack(zoo(name), inputs=7, outputs=5, width=8, num_layers=layers, heads=2)
    tokens = torch.randint(7, (3, 20), generator=torch.Generator().manual_seed(0))
    weights = list(stack.parameters())

    def results(y: torch.Tensor, state: State) -> list[torch.Tensor]:
        parts = (state,) if isinstance(state, torch.Tensor) else state
        total = (y * torch.arange(8)).sum() + sum(part.abs().sum() for part in parts)
        found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
        return [y, *parts, *found]

    looked_up, after = stack.cell(stack.input(tokens), lengths=lengths)
    expected = results(looked_up, after)
    for own, value in zip(results(*stack.features(tokens, lengths)), expected, strict=True):
        torch.testing.assert_close(own, value, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(stack.features(tokens, lengths)[0], looked_up)


@pytest.mark.parametrize("name", ["lstm", "sru"])
def test_tokens_are_those_of_the_table(name: str) -> None:
    stack = Stack(zoo(name), inputs=7, outputs=5, width=8)
    for wrong in (-1, 7):
        with pytest.raises(IndexError, match=r"table|range"):
            stack(torch.full((3, 20), wrong))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_table_in_any_module(backend: str) -> None:
    module = build(zoo("gru"), 6, 6, bidirectional=True, backend=backend)
    table, tokens = torch.randn(4, 6), torch.randint(4, (2, 9))
    torch.testing.assert_close(module(tokens, table=table), module(table[tokens]))
    with pytest.raises(BuildError, match=r"tokens, a tensor \[B, T\] of int64"):
        module(table[tokens], table=table)
    with pytest.raises(BuildError, match=r"table must have the shape \[V, 6\]; received \[4, 5\]"):
        module(tokens, table=table[:, :5])
    with pytest.raises(BuildError, match=r"a tensor \[B, T\] of int64; received \[0, 9\] of int64"):
        module(tokens[:0], table=table)


@pytest.mark.parametrize("kind", ["one way", "both ways", "newton", "ensemble"])
def test_what_follows_the_end_need_not_be_a_token(kind: str) -> None:
    cell = zoo("indrnn")
    module: CellModule
    if kind == "ensemble":
        module = Ensemble(cell, 2, 6, 6)
    else:
        solver = "newton" if kind == "newton" else "exact"
        module = build(cell, 6, 6, bidirectional=kind == "both ways", solver=solver)
    table, tokens, lengths = torch.randn(4, 6), torch.randint(4, (2, 9)), [9, 4]
    filled = tokens.clone()
    filled[1, 4:] = -100
    torch.testing.assert_close(
        module(filled, lengths=lengths, table=table), module(tokens, lengths=lengths, table=table)
    )


def test_lone_states_are_detached_too() -> None:
    _, state = Stack(zoo("gru"), inputs=11, outputs=7, width=6)(torch.randint(11, (1, 2)))
    assert isinstance(state, torch.Tensor)
    assert state.requires_grad
    detached = detach_state(state)
    assert isinstance(detached, torch.Tensor)
    assert not detached.requires_grad


def test_lengths_are_those_of_the_sequences() -> None:
    stack = Stack(zoo("gru"), inputs=11, outputs=7, width=6)
    tokens = torch.randint(11, (2, 5))
    logits, state = stack(tokens, lengths=torch.tensor([3, 5]))
    torch.testing.assert_close(stack(tokens[:1, :3])[0], logits[:1, :3])
    torch.testing.assert_close(stack(tokens[:1, :3])[1], state[:, :1])


@pytest.mark.parametrize("policy", [None, "left", "beam"])
def test_a_tree_answers_at_its_root(policy: str | None) -> None:
    stack = Stack(zoo("treelstm"), inputs=11, outputs=7, width=6, dropout=0.1, policy=policy).eval()
    tokens, lengths = torch.randint(11, (3, 4)), [4, 1, 2]
    left = torch.tensor([[0, 1], [4, 2], [5, 3]]).expand(3, -1, -1)
    logits, state = stack(tokens, lengths=lengths, tree=left)
    assert logits.shape == (3, 7)
    assert [part.shape for part in state] == [(1, 3, 6)] * 2
    if policy == "left":
        twin = Stack(zoo("treelstm"), inputs=11, outputs=7, width=6).eval()
        twin.load_state_dict(stack.state_dict())
        torch.testing.assert_close(twin(tokens, lengths=lengths, tree=left), (logits, state))
    torch.testing.assert_close(stack.head(state[0][0]), logits)  # this cell's output is its state h


def test_same_generator_same_weights() -> None:
    stack = Stack(zoo("lstm"), inputs=11, outputs=7, width=6)
    stack.reset_parameters(torch.Generator().manual_seed(1))
    first = copy.deepcopy(stack.state_dict())
    stack.reset_parameters(torch.Generator().manual_seed(2))
    assert any(not torch.equal(first[k], v) for k, v in stack.state_dict().items())
    stack.reset_parameters(torch.Generator().manual_seed(1))
    assert all(torch.equal(first[k], v) for k, v in stack.state_dict().items())


def test_dropout_acts_in_training_alone() -> None:
    stack = Stack(zoo("gru"), inputs=11, outputs=7, width=6, dropout=0.5)
    tokens = torch.randint(11, (2, 5))
    assert not torch.equal(stack(tokens)[0], stack(tokens)[0])
    stack.eval()
    assert torch.equal(stack(tokens)[0], stack(tokens)[0])


def test_is_made_without_memory() -> None:
    with torch.device("meta"):
        stack = Stack(zoo("lstm"), inputs=11, outputs=7, width=6)
    assert all(p.is_meta for p in stack.parameters())
    assert sum(p.numel() for p in stack.parameters()) == 11 * 6 + 4 * (2 * 6 * 6 + 6) + 7 * 7


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(BuildError, match=r"x must have the shape \[B, T\] of tokens; received \[2, 3, 4\]"):
        Stack(zoo("gru"), inputs=11, outputs=7, width=6)(torch.zeros(2, 3, 4))
    with pytest.raises(BuildError, match=r"x must have the shape \[B, T, 11\]; received \[2, 3\]"):
        Stack(zoo("gru"), inputs=11, outputs=7, width=6, embed=False)(torch.zeros(2, 3))
    with pytest.raises(BuildError, match=r"tree cell treelstm has one layer, .* num_layers=2"):
        Stack(zoo("treelstm"), inputs=11, outputs=7, width=6, num_layers=2)
    with pytest.raises(BuildError, match=r"a policy is for tree cells; received 'beam'"):
        Stack(zoo("gru"), inputs=11, outputs=7, width=6, policy="beam")
    with pytest.raises(BuildError, match="inputs and outputs must be at least 1; received 0 and 7"):
        Stack(zoo("gru"), inputs=0, outputs=7, width=6)
