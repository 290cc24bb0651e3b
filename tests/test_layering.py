"""Imports run one way, packages meet only at their faces, heavy libraries live behind one file. See CONTRIBUTING.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from source_tree import ROOT, TOP_LEVEL, Import, imports, packages, sources, suite, tree

# Each layer and what stands directly left of its arrow. A layer may import whatever is left of it, however far.
LEFT = {
    "grammar": (),
    "search_spaces": ("grammar",),
    "predictors": ("search_spaces",),
    "nas.errors": (),
    "nas._lazy": (),
    "nas._modules": (),
    "nas._siblings": (),
    "nas._cache": ("nas.errors",),
    "nas._student": (),
    "nas._plain": (),
    "nas.ir": ("grammar", "nas.errors", "nas._lazy"),
    "nas.backends": ("nas.ir", "nas._cache"),
    "nas.nn": ("nas.backends",),
    "nas.bench": ("nas.nn",),
    "nas.tasks": ("nas.nn",),
    "nas.training": ("nas.tasks",),
    "nas.supernet": ("search_spaces", "nas.training"),
    "nas.searchers": ("search_spaces", "predictors", "nas.supernet", "nas._student"),
    "nas.campaign": ("nas.searchers", "nas._modules", "nas._plain"),
    "nas.exporters": ("nas.campaign",),
    "nas.reports": ("nas.exporters",),
    "nas.serving": ("predictors", "nas.errors", "nas._lazy", "nas._modules", "nas._plain"),
    "nas.cli": ("nas.exporters", "nas.reports", "nas.bench", "nas.serving"),
}
# Libraries that only these files or packages (a trailing slash) may import.
HOMES = {
    "lark": ("grammar/driving.py", "grammar/parser.py", "search_spaces/reader.py"),
    "ray": (
        "nas/campaign/workers.py",
        "nas/searchers/trainable.py",
        "nas/searchers/tune.py",
        "nas/serving/cluster.py",
    ),
    "uvicorn": ("nas/serving/cluster.py",),
    "triton": ("nas/backends/triton/",),
    "optuna": ("nas/reports/dashboard.py", "nas/searchers/recipes.py"),
    "sklearn": ("predictors/", "nas/tasks/", "nas/searchers/lab/surrogate.py"),
    "networkx": ("grammar/", "nas/ir/", "nas/backends/triton/", "nas/reports/", "nas/bench/"),
    "typer": ("nas/cli/",),
    "torch": (
        "predictors/networks.py",
        *(f"nas/{p}/" for p in "backends nn bench tasks training supernet campaign exporters cli".split()),
    ),
}
# Imports of our own code inside functions, outside of the commands (which import on demand, so that --help is quick).
LAZY = {
    "nas/backends/triton/backend.py: nas.backends.triton.devices",  # only a run imports triton
    "grammar/cell.py: grammar.canonical",  # a Cell has a canonical form, which is a Cell
    "predictors/predictor.py: predictors.files",  # a Predictor saves itself, and files hold Predictors
    "predictors/models.py: predictors.networks",  # only two of the models need torch
    "nas/campaign/workers.py: nas.tasks",  # only the worker's process imports torch, after setting its threads
}
# What no face may load: `recell --help`, `status` and `top` answer within a second.
HEAVY = ("torch", "triton", "ray", "optuna", "sklearn", "matplotlib", "pandas", "scipy")


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sources():
        if path == "nas/__init__.py":  # the face of all; nothing imports it
            continue
        layer = layer_of(path[:-3].replace("/", "."))
        allowed = {layer, *left_of(layer)}
        wrong += [str(i) for i in ours(path) if layer_of(i.module) not in allowed]
    assert not wrong, "these import against the arrows of LEFT:\n" + "\n".join(wrong)


def test_packages_meet_at_their_faces() -> None:
    faces = set(packages()) | {
        "nas.errors",
        "nas._cache",
        "nas._lazy",
        "nas._modules",
        "nas._plain",
        "nas._siblings",
        "nas._student",
    }
    wrong = [
        str(i)
        for path in sources()
        for i in ours(path)
        if i.module not in faces and layer_of(i.module) != layer_of(path[:-3].replace("/", "."))
    ]
    assert not wrong, "these reach behind another package's face:\n" + "\n".join(wrong)


def test_nothing_imports_the_outer_face() -> None:
    wrong = [str(i) for path in sources() for i in imports(path) if i.module == "nas"]
    assert not wrong, "`import nas` is for users; import the package that defines the name:\n" + "\n".join(
        wrong
    )


@pytest.mark.parametrize("library", HOMES)
def test_library_lives_at_home(library: str) -> None:
    wrong = [
        str(i)
        for path in sources()
        for i in imports(path)
        if i.module.split(".")[0] == library and not i.for_types and not at_home(path, HOMES[library])
    ]
    assert not wrong, f"{library} is for {HOMES[library]} alone:\n" + "\n".join(wrong)


def test_only_the_command_line_imports_ours_lazily() -> None:
    found = {
        f"{i.path}: {i.module}"
        for path in sources()
        for i in ours(path)
        if i.in_function and not path.startswith("nas/cli/")
    }
    assert found == LAZY, (
        "a lazy import of our own code hides a cycle: elsewhere than here, import at the top"
    )


def test_no_folder_of_tests_shadows_a_package() -> None:
    assert not [top for top in TOP_LEVEL if (ROOT / "tests" / top).exists()]


def test_faces_load_nothing_heavy() -> None:
    script = f"import sys, {', '.join(packages())}; print(*[m for m in {HEAVY} if m in sys.modules])"
    assert run(script) == "", "importing the faces loaded these"


def test_cells_build_without_ray_optuna_and_triton() -> None:
    assert run(BARE_MACHINE) == "(3, 5, 8)"


BARE_MACHINE = """
import sys
for absent in ("ray", "optuna", "triton", "sklearn", "matplotlib", "typer", "rich", "jinja2", "safetensors", "psutil"):
    sys.modules[absent] = None
import torch
from grammar import zoo
from nas.nn import build
y, state = build(zoo("lstm"), 4, 8)(torch.ones(3, 5, 4))
print(tuple(y.shape))
"""


def test_loads_execute_no_pickle() -> None:
    wrong = [
        str(i)
        for path in sources()
        for i in imports(path)
        if i.module.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    ]
    for path in sources():
        for call in calls(path):
            name, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name == "torch.load" and given.get("weights_only") != "True":
                wrong.append(f"{path}:{call.lineno}: torch.load without weights_only=True")
            if "allow_pickle" in given and given["allow_pickle"] != "False":
                wrong.append(f"{path}:{call.lineno}: allow_pickle")
    assert not wrong, "see docs/security.md:\n" + "\n".join(wrong)


def test_expected_errors_are_matched() -> None:
    wrong = [
        f"{path}:{call.lineno}: {ast.unparse(call)}"
        for path in suite()
        for call in calls(path)
        if ast.unparse(call.func) in {"pytest.raises", "pytest.warns"}
        and "match" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not wrong, "which message is expected?\n" + "\n".join(wrong)


def test_no_error_is_swallowed() -> None:
    wrong = []
    for path in sources() + suite():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not reports(node):
                wrong.append(
                    f"{path}:{node.lineno}: a broad `except` that neither raises nor reports the error"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                wrong += [f"{path}:{node.lineno}: {ast.unparse(node)}" for a in node.args if is_broad(a)]
    assert not wrong, "\n".join(wrong)


def layer_of(module: str) -> str:
    """The layer of a module: its top-level package, or below nas the first two names."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "nas" else parts[0]


def left_of(layer: str) -> set[str]:
    return {far for near in LEFT[layer] for far in (near, *left_of(near))}


def ours(path: str) -> Iterator[Import]:
    """The imports of our own modules; `from nas import tasks` counts as one of nas.tasks."""
    yield from (
        i
        for i in imports(path)
        if i.module.split(".")[0] in {"grammar", "search_spaces", "predictors", "nas"}
    )


def at_home(path: str, homes: tuple[str, ...]) -> bool:
    return any(path.startswith(home) if home.endswith("/") else path == home for home in homes)


def calls(path: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def is_broad(caught: ast.expr | None) -> bool:
    names = {
        ast.unparse(e) for e in (caught.elts if isinstance(caught, ast.Tuple) else [caught]) if e is not None
    }
    return not names or bool(names & {"Exception", "BaseException"})


def reports(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises, or uses the error that it caught."""
    inner = [node for statement in handler.body for node in ast.walk(statement)]
    raises = any(isinstance(node, ast.Raise) for node in inner)
    return raises or any(isinstance(node, ast.Name) and node.id == handler.name for node in inner)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
