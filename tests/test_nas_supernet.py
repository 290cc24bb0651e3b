from __future__ import annotations

import numpy as np
import pytest
import torch
from test_search_spaces_relaxing import SKETCHES
from torch import Tensor

from grammar import Sizes, parse_sketch
from nas.errors import BuildError, SearchError
from nas.nn import Stack
from nas.supernet import Architecture, Cost, Supernet, SupernetOptions
from nas.supernet.memory import check_memory, estimated_bytes
from nas.supernet.plan import Plan
from nas.supernet.steps import Stream, first_order, leave, mixture_loss, path_loss, second_order
from nas.tasks import Batch, load_task
from nas.training import TrialSpec
from search_spaces import Relaxed, load_space

SKETCHED = {
    **{name: SKETCHES[name] for name in ("mine", "numbers", "matrix", "buffers", "repeat")},
    "darts_rnn": "",
}


def relaxed_of(name: str, lift: bool = False) -> Relaxed:
    if SKETCHED[name]:
        return Relaxed(parse_sketch(SKETCHED[name]), lift)
    return Relaxed(load_space(name).sketches[0], lift)  # type: ignore[attr-defined]


def one_hot(relaxed: Relaxed, picks: dict[int, int], dtype: torch.dtype) -> list[Tensor]:
    gates = [torch.zeros(len(hole.options), dtype=dtype) for hole in relaxed.holes]
    for i, gate in enumerate(gates):
        gate[picks.get(i, 0)] = 1.0
    return gates


WAYS = [
    (name, lift, dtype, "reference")
    for name in SKETCHED
    for lift in (False, True)
    for dtype in ("float64", "float32")
]
WAYS += [("mine", False, "float32", "auto"), ("matrix", False, "float32", "auto")]
COMPILED = [("darts_rnn", lift, "float32", "auto") for lift in (False, True)]  # tens of seconds of compiling


@pytest.mark.parametrize(
    "way", [*WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in COMPILED)], ids=str
)
def test_one_hot_supernet_equals_the_discrete_cell(way: tuple[str, bool, str, str]) -> None:
    """Outputs and every gradient, of the mixture with one-hot gates and of the path: to 1e-6."""
    name, lift, kind, backend = way
    dtype = getattr(torch, kind)
    layers = 1 if name == "darts_rnn" else 2
    relaxed = relaxed_of(name, lift)
    torch.manual_seed(0)
    net = Supernet(relaxed, 5, 4, 8, heads=2, num_layers=layers, backend=backend).to(dtype)
    picks = relaxed.template.complete({}, np.random.default_rng(1))
    alone = Stack(relaxed.derived(picks), 5, 4, 8, heads=2, num_layers=layers, backend="reference").to(dtype)
    net.copy_to(alone, picks)
    x = torch.randint(0, 5, (3, 7))
    gates = one_hot(relaxed, picks, dtype)
    wanted, grads = passed(alone, alone(x)[0])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    own = dict(net.stack.named_parameters())
    roles = relaxed.roles(picks)
    pairs = {own_name(name, roles): grad for name, grad in grads.items()}
    for y in (net.mix(gates, x)[0], net.run(picks, x)[0], net.run(picks, x, gates=gates)[0]):
        found, all_grads = passed(net.stack, y)
        assert (found - wanted).abs().max() < tolerance
        for name_, grad in all_grads.items():
            other = pairs.get(name_, torch.zeros_like(grad))
            assert (grad - other).abs().max() < tolerance * max(1.0, float(other.abs().max())), name_
    assert set(pairs) <= set(own)


def own_name(name: str, roles: dict[str, str]) -> str:
    *head, site, array = name.split(".")
    return ".".join([*head, roles.get(f"{site}.{array}", f"{site}.{array}")])


def passed(model: torch.nn.Module, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    torch.autograd.backward((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum())
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    return y.detach(), grads


def test_one_hot_tree_supernet_equals_the_discrete_cell() -> None:
    relaxed = Relaxed(parse_sketch(SKETCHES["tree"]))
    torch.manual_seed(0)
    net = Supernet(relaxed, 5, 4, 6, policy="balanced", path_backend="auto").double()
    x, lengths = torch.randint(0, 5, (2, 6)), torch.tensor([6, 4])
    for seed in range(3):
        picks = relaxed.template.complete({}, np.random.default_rng(seed))
        alone = Stack(relaxed.derived(picks), 5, 4, 6, policy="balanced").double()
        net.copy_to(alone, picks)
        wanted = alone(x, lengths)[0]
        for y in (
            net.mix(one_hot(relaxed, picks, torch.float64), x, lengths)[0],
            net.run(picks, x, lengths)[0],
        ):
            torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)


def test_gates_of_a_path_have_the_gradient_of_the_mixture() -> None:
    relaxed = relaxed_of("mine")
    net = Supernet(relaxed, 5, 4, 6, backend="reference").double()
    picks = {0: 1, 1: 0, 2: 1}
    x = torch.arange(6).view(2, 3) % 5
    found = []
    for mixed in (True, False):
        gates = [g.requires_grad_() for g in one_hot(relaxed, picks, torch.float64)]
        y = net.mix(gates, x)[0] if mixed else net.run(picks, x, gates=gates)[0]
        torch.autograd.backward(y.square().sum())
        found.append(
            [0.0 if g.grad is None else float(g.grad[picks[i]]) for i, g in enumerate(gates) if i in picks]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert any(found[0])


def test_gates_of_wrong_shape_are_refused() -> None:
    net = Supernet(relaxed_of("mine"), 5, 4, 6, backend="reference")
    with pytest.raises(BuildError, match="the gates have one number per option"):
        net.mix([torch.ones(2)], torch.zeros(1, 2, dtype=torch.int64))


# -- gradients of the architecture ----------------------------------------------------------------


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 5, (4, 6), generator=generator) for _ in range(2))
    return Batch(x, y)


def test_second_order_is_the_derivative_through_a_step_of_the_weights() -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    relaxed = relaxed_of("mine")
    torch.manual_seed(0)
    net = Supernet(relaxed, 5, 5, 6, backend="reference").double()
    logits = [torch.randn(len(h.options), dtype=torch.float64, requires_grad=True) for h in relaxed.holes]
    train, valid, rate = batch(0), batch(1), 0.5
    gates = [z.softmax(-1) for z in logits]
    weights = dict(net.stack.named_parameters())
    loss = mixture_loss(net, task, gates, train)[0]
    step = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    ahead = {name: p - rate * (g + 0.1 * p) for (name, p), g in zip(weights.items(), step, strict=True)}
    exact = torch.autograd.grad(mixture_loss(net, task, gates, valid, arrays=ahead)[0], logits)
    gates = [z.softmax(-1) for z in logits]
    found = second_order(net, task, gates, logits, (train, None), (valid, None), rate, decay=0.1)[1]
    gates = [z.softmax(-1) for z in logits]
    naive = first_order(mixture_loss(net, task, gates, valid)[0], logits)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in zip(naive, exact, strict=True))


def test_the_next_batch_can_be_looked_at_before_it_is_taken() -> None:
    stream = Stream(iter([batch(0), batch(1)]), torch.device("cpu"), carries=True)
    stream.state, stream.names = torch.ones(1), ("h",)
    ahead = stream.peek()
    assert stream.peek() is ahead
    assert stream.before(("h",)) is None  # a fresh batch goes on from nothing
    assert stream.next() is ahead
    torch.testing.assert_close(stream.next().x, batch(1).x)


def test_a_gumbel_path_has_gradients_for_the_logits_of_its_holes_alone() -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    relaxed = relaxed_of("mine")
    net = Supernet(relaxed, 5, 5, 6, backend="reference")
    architecture = Architecture(relaxed, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    drawn = set()
    for _ in range(20):
        picks, gates = architecture.gumbel(rng, 0.7)
        drawn.add(tuple(sorted(picks.items())))
        assert all(
            torch.equal(g.detach().sum(), torch.tensor(float(i in picks))) for i, g in enumerate(gates)
        )
    assert len(drawn) > 3
    grads = first_order(path_loss(net, task, picks, batch(0), gates=gates)[0], list(architecture.logits))
    assert [bool(g.abs().max() > 0) for g in grads] == [i in picks for i in range(len(grads))]


# -- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["params", "flops"])
@pytest.mark.parametrize("name", ["mine", "numbers", "matrix"])
def test_expected_cost_is_the_mean_over_cells(name: str, kind: str) -> None:
    relaxed = relaxed_of(name)
    cost = Cost(relaxed, Sizes.of(4, 4, 2), kind)
    architecture = Architecture(relaxed, np.random.default_rng(0))
    expected = cost.expected([p.detach() for p in architecture.probabilities()])
    assert float(expected) == pytest.approx(cost.expectation(architecture.probabilities()), rel=1e-5)
    mean, rng = 0.0, np.random.default_rng(0)
    for _ in range(300):
        picks = architecture.sample(rng)
        mean += cost.of(picks) / 300
        certain = one_hot(relaxed, picks, torch.float32)
        assert cost.expectation(certain) >= cost.of(picks) - 1e-6
    assert mean == pytest.approx(float(expected), rel=0.1)
    assert mean <= float(expected) * 1.1


def test_expected_cost_is_exact_for_darts_rnn() -> None:
    relaxed = relaxed_of("darts_rnn")
    for kind in ("params", "flops"):
        cost = Cost(relaxed, Sizes.of(8, 8), kind)
        picks = relaxed.template.complete({}, np.random.default_rng(3))
        assert cost.expectation(one_hot(relaxed, picks, torch.float32)) == cost.of(picks)


def test_the_limit_holds_after_every_step_and_for_every_cell() -> None:
    relaxed = relaxed_of("mine")
    cost, rng = Cost(relaxed, Sizes.of(8, 8), "params"), np.random.default_rng(0)
    limit = 170.0
    architecture = Architecture(relaxed, rng, cost, limit)
    assert cost.expectation(architecture.probabilities()) <= limit
    for step in range(60):
        with torch.no_grad():  # a search that wants ever more
            for z in architecture.logits:
                z += torch.from_numpy(rng.normal(0.3 * (step % 3), 1.0, len(z))).to(z.dtype)
        architecture.project()
        assert cost.expectation(architecture.probabilities()) <= limit
        for picks in (architecture.likeliest(rng), architecture.sample(rng)):
            assert cost.of(architecture.within(picks, rng)) <= limit
    over = [cost.of(architecture.sample(rng)) > limit for _ in range(50)]
    assert any(over)  # or the test proves nothing of `within`


@pytest.mark.parametrize("temperature", [0.1, 4.0])
def test_the_limit_holds_at_the_temperature_of_a_mixture(temperature: float) -> None:
    relaxed = relaxed_of("mine")
    cost, rng = Cost(relaxed, Sizes.of(8, 8), "params"), np.random.default_rng(0)
    limit, over = 170.0, 0
    architecture = Architecture(relaxed, rng, cost, limit)
    for _ in range(30):
        with torch.no_grad():
            for z in architecture.logits:
                z += torch.from_numpy(rng.normal(0.0, 1.0, len(z))).to(z.dtype)
        architecture.project()
        over += cost.expectation(architecture.probabilities(temperature)) > limit
        architecture.project(temperature)
        for each in (1.0, temperature):
            assert cost.expectation(architecture.probabilities(each)) <= limit
        assert architecture.spent(temperature) <= limit
    assert over  # or the test proves nothing


def test_a_limit_below_every_cell_is_refused() -> None:
    relaxed = relaxed_of("matrix")
    with pytest.raises(
        SearchError, match="cost_limit=10 params leaves no cell of sketch m: the cheapest found"
    ):
        Architecture(relaxed, np.random.default_rng(0), Cost(relaxed, Sizes.of(8, 8), "params"), 10.0)


def test_too_large_a_supernet_is_refused_before_it_is_built() -> None:
    relaxed, recipe = relaxed_of("mine"), load_task("modular_arithmetic", None, "smoke").recipe
    sizes = Sizes.of(64, 64)
    graph = relaxed.cell.graph
    path = relaxed.path({0: 0, 1: 0, 2: 0})
    need = check_memory(relaxed, sizes, recipe, 1.0)
    assert need == estimated_bytes(graph, graph, sizes, recipe)
    assert check_memory(relaxed, sizes, recipe, 1.0, path) < need
    with pytest.raises(BuildError, match=r"the supernet of mine would take about 0\.0\d\d\d GB at width 64"):
        check_memory(relaxed, sizes, recipe, 1e-6)


def test_memory_is_that_of_the_mixture_wherever_it_is_run() -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    spec = TrialSpec(SKETCHES["mine"], task.name, task.recipe, width=64)
    graph, sizes = relaxed_of("mine").cell.graph, Sizes.of(64, 64)
    least = estimated_bytes(graph, graph, sizes, task.recipe) / 1e9

    def planned(**options: str) -> Plan:
        chosen = SupernetOptions(memory_gb=0.99 * least, **options)  # type: ignore[arg-type]
        return Plan.of(spec, chosen, task, np.random.default_rng(0))

    assert planned(method="gdas").width == 64
    for options in ({"method": "darts"}, {"method": "gdas", "select": "perturbation"}):
        with pytest.raises(BuildError, match="more than memory_gb"):
            planned(**options)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_path_through_the_mixture_is_the_path(backend: str) -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    relaxed = relaxed_of("mine")
    torch.manual_seed(0)
    apart = Supernet(relaxed, 5, 5, 6, backend="reference")
    through = Supernet(relaxed, 5, 5, 6, backend=backend, through=True)
    through.load_state_dict(apart.state_dict())
    rng = np.random.default_rng(0)
    for number in range(3):
        picks = relaxed.template.complete({}, rng)
        found = [path_loss(net, task, picks, batch(number))[0] for net in (apart, through)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
        for net, loss in zip((apart, through), found, strict=True):
            net.zero_grad(set_to_none=True)
            loss.backward()
        leave(through.parameters())
        for (name, p), q in zip(apart.named_parameters(), through.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6)
    assert through.state_names(picks) == through.state_names()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "uniform", "backend": "c"}, True),
        ({"method": "uniform", "backend": "reference"}, False),
        ({"method": "gdas", "backend": "c"}, False),
    ],
)
def test_paths_run_through_a_small_mixture_that_is_compiled(options: dict[str, str], expected: bool) -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    for choices, little in ((2, True), (9, False)):
        text = " | ".join(f"tanh(lin(x, h) + {n})" for n in range(choices))
        spec = TrialSpec(
            f"cell c {{ state h: vec; h' = choice{{ {text} }}; out h' }}", task.name, task.recipe, width=8
        )
        plan = Plan.of(spec, SupernetOptions(**options), task, np.random.default_rng(0))  # type: ignore[arg-type]
        assert plan.through == (expected and little)


def test_the_width_is_that_of_the_cell_in_the_middle() -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    text = "cell c { state h: vec; h' = choice{ lin(x, h) [0.01] | lin(x, h) * sigmoid(lin(x, h)) }; out h' }"
    spec = TrialSpec(text, task.name, task.recipe, params=1000)
    options, rng = SupernetOptions(method="uniform"), np.random.default_rng(0)
    drawn = Plan.of(spec, options, task, rng).width
    middle = Plan.of(spec.replace(supernet={"centred": True}), options, task, rng).width
    assert middle > drawn
