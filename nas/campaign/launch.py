"""Start a search and carry one on: from names and paths to the parts of a `Campaign`, each checked first."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from grammar import DIGEST_VERSION, Cell, parse, zoo
from nas.campaign.cluster import check_address
from nas.campaign.config import SearchConfig
from nas.campaign.constraints import parse_constraint
from nas.campaign.driver import Campaign, OnEvent, Sitting
from nas.campaign.journal import Journal, check_free, check_writable
from nas.campaign.proposals import Costs
from nas.campaign.record import Run
from nas.campaign.workers import RayPool
from nas.errors import BuildError, RunError
from nas.searchers import Searcher, make_searcher, settled_options
from nas.supernet import check_supernet
from nas.tasks import Task, absolute_name, load_task
from nas.training import TrialSpec, match_width, static_metrics
from search_spaces import Space, load_space, read_space

MEMORY_SHARE = 0.8
"""Of the machine's memory, for all workers of a local run together, unless the user sets the cap."""


def search(out: str | Path, on_event: OnEvent | None = None, **settings: Any) -> Run:
    """Run a search into the folder `out` and return what it found; `settings` are the fields of `SearchConfig`.

    For instance `nas.search("runs/a", task="text", budget=600, workers=2)`. See `start` for errors.
    """
    return start(SearchConfig.from_dict(settings), out, on_event)


def start(config: SearchConfig, out: str | Path, on_event: OnEvent | None = None) -> Run:
    """Run a search into the new or empty folder `out`, to its end or to an interrupt (`run.finished` tells).

    Nothing is written before space, task, data, searcher, baselines and workers are known to be good. Raises NasError,
    SpaceError or GrammarError, with one line for the user, for what is not. `on_event(event, run)` follows the run.
    """
    folder = Path(out)
    check_free(folder)
    if config.data is not None:
        config = config.replace(data=str(Path(config.data).expanduser().absolute()))
    config = config.replace(task=absolute_name(config.task))
    space = load_space(config.space)
    searcher = make_searcher(config.method, space, config.options)
    config = config.replace(options=settled_options(config.method, space, config.options))
    baselines = _baselines(config)
    task = load_task(config.task, config.data, config.size)
    _check_params(config, task)
    _check_objectives(config, task, searcher)
    check_writable(folder)
    record = _first_event(config, task, space, baselines) | {"objectives": list(searcher.objectives)}
    sitting, pool = _workers(config, record["task"], config.data)
    _check_supernets(config, task, searcher)
    with pool:
        journal, event = Journal.create(folder, record)
        try:
            costs = _costs(config, task)
            return Campaign(journal, [event], searcher, pool, sitting, costs=costs).run(on_event)
        finally:
            journal.close()


def resume(
    path: str | Path,
    on_event: OnEvent | None = None,
    *,
    data: str | None = None,
    task: str | None = None,
    **changes: Any,
) -> Run:
    """Carry a run on to its end, or to an interrupt. A finished run is returned as it is.

    `data` says where the data are now, if they moved; their digest must be that of the run's. `task` names the same
    task where its own file (`file.py:Class`) moved; version and digest must be those of the run. `changes` may set what
    belongs to the machine: workers, address, device, gpus_per_trial, trial_memory_gb. Raises RunError if a live driver
    is at work on the run, if the journal is damaged, or if task or data differ.
    """
    folder = Path(path)
    run = Run.load(folder)
    if run.finished:
        return run
    wrong = sorted(set(changes) - {"workers", "address", "device", "gpus_per_trial", "trial_memory_gb"})
    if wrong:
        raise RunError(f"{wrong[0]} belongs to the search and cannot change between sittings")
    journal, events = Journal.take_over(folder)
    try:
        run = Run(folder, events)
        if run.finished:  # by a driver that was at work when it was read the first time
            return run
        last = run.sittings[-1].get("task") if run.sittings else None
        named = absolute_name(task) if task is not None else last or run.config.task
        config = run.config.replace(**changes, task=named)
        place = _place_of_data(run, data)
        found = _check_same(run, config.task, place)
        searcher = _searcher_again(run)
        sitting, pool = _workers(config, run.task, place)
        with pool:
            costs = _costs(config, found)
            return Campaign(journal, events, searcher, pool, sitting, costs=costs).run(on_event)
    finally:
        journal.close()


def _searcher_again(run: Run) -> Searcher:
    # From the text in the journal: the file may have changed since, or be on another machine.
    space = read_space(run.space["text"], f"space {run.space['name']} of {run.path}")
    return make_searcher(run.config.method, space, run.config.options)


def _place_of_data(run: Run, data: str | None) -> str | None:
    if data is not None:
        return str(Path(data).expanduser().absolute())
    last: str | None = run.sittings[-1]["data"] if run.sittings else run.config.data
    return last


def _check_same(run: Run, named: str, place: str | None) -> Task:
    """The task. Raises RunError unless task, data and digests here are those that the run was made with."""
    task = load_task(named, place, run.config.size)
    if task.name != run.task["name"]:
        raise RunError(f"{run.path} is of task {run.task['name']}, and {named} is {task.name}")
    if task.version != run.task["version"]:
        raise RunError(
            f"task {task.name} has version {task.version} here, and {run.path} was made with version "
            f"{run.task['version']}: their scores do not compare"
        )
    if task.data_digest != run.task["data_digest"]:
        where = place or "the default data here"
        raise RunError(
            f"{where} differ from the data of {run.path}: digest {task.data_digest[:12]}, and the run has "
            f"{run.task['data_digest'][:12]}; give the place of the same data with --data"
        )
    if run.first["digests"] != DIGEST_VERSION:
        raise RunError(
            f"{run.path} has cell digests of version {run.first['digests']}, and this recell makes version "
            f"{DIGEST_VERSION}: it would not know the cells again; use recell {run.first['recell']}"
        )
    return task


def _costs(config: SearchConfig, task: Task) -> Costs:
    """The metrics of a cell at the width that a trial gives it."""
    params = None if config.width is not None else task.params if config.params is None else config.params
    return lambda cell, recipe: static_metrics(
        cell, task, recipe, params=params, width=config.width, heads=config.heads
    )


def _check_objectives(config: SearchConfig, task: Task, searcher: Searcher) -> None:
    """Raise RunError for an aim at parameters where every model is given the same number of them."""
    if config.width is not None:
        return
    params = task.params if config.params is None else config.params
    if "params" in searcher.objectives:
        raise RunError(
            f"method {config.method} is to minimise params, and the width of every model is matched to {params:,} "
            "parameters; give the width of all of them in place of that (--width)"
        )
    for each in map(parse_constraint, config.constraints):
        if each.metric == "params" and each.limit < params:
            raise RunError(
                f"constraint {each}: the width of every model is matched to {params:,} parameters; ask for that many "
                "(--params), or give the width of all models (--width)"
            )


def _check_supernets(config: SearchConfig, task: Task, searcher: Searcher) -> None:
    """Raise SearchError for supernets that no worker could train, rather than have them fail one by one."""
    planned = searcher.planned()
    if not planned:
        return
    params = None if config.width is not None else task.params if config.params is None else config.params
    for supernet in planned:
        spec = TrialSpec(
            supernet["sketch"],
            config.task,
            task.recipe,
            params=params,
            width=config.width,
            heads=config.heads,
            supernet=supernet,
        )
        check_supernet(spec, task, here=config.address is None)


def _first_event(config: SearchConfig, task: Task, space: Space, baselines: list[Any]) -> dict[str, Any]:
    facts = {
        "name": task.name,
        "version": task.version,
        "size": task.size,
        "metric": task.metric,
        "trivial_score": task.trivial_score,
        "best_known": task.best_known,
        "data_digest": task.data_digest,
        "recipe": task.recipe.to_dict(),
        "params": task.params if config.params is None else config.params,
    }
    place = {"name": space.name, "digest": space.digest, "text": space.text}
    what = {"config": config.to_dict(), "task": facts, "space": place, "baselines": baselines}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    versions = _versions()
    return {
        "recell": versions["recell"],
        "digests": DIGEST_VERSION,
        "hash": digest,
        **what,
        "versions": versions,
    }


def _baselines(config: SearchConfig) -> list[dict[str, str]]:
    """The cells to compare with, each under a name of its own. Raises GrammarError for unknown names and bad texts."""
    rows: list[dict[str, str]] = []
    for given in config.baselines if config.finalists else ():
        cell: Cell = parse(given) if "{" in given else zoo(given.removeprefix("zoo:"))
        taken = {row["name"] for row in rows}
        name = cell.name if "{" in given else given.removeprefix("zoo:")
        names = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))]
        rows.append(
            {
                "name": next(n for n in names if n not in taken),
                "text": cell.one_line,
                "canonical": cell.canonical().one_line,
                "digest": cell.digest,
            }
        )
    return rows


def _check_params(config: SearchConfig, task: Task) -> None:
    """Raise RunError if not even the smallest of cells fits the budget of parameters: no candidate would."""
    if config.width is not None:
        return
    params = task.params if config.params is None else config.params
    try:
        match_width(zoo("elman"), task, params, config.heads, task.recipe.num_layers)
    except BuildError as error:
        raise RunError(str(error)) from error


def _workers(config: SearchConfig, task: Any, place: str | None) -> tuple[Sitting, RayPool]:
    """The workers of this sitting, not yet started, and what is to be written down about it."""
    resources = check_address(config.address) if config.address is not None else None
    device, gpus, gpus_here = _device(config, resources)
    memory = None if config.trial_memory_gb is None else int(config.trial_memory_gb * 1e9)
    if memory is None and config.address is None:
        memory = int(MEMORY_SHARE * _machine_memory() / config.workers)
    pool = RayPool(
        config.workers,
        address=config.address,
        gpus=gpus,
        gpus_here=gpus_here,
        task={"name": config.task, "data": place, "size": config.size, "data_digest": task["data_digest"]},
        memory=memory,
    )
    return Sitting(device, place, memory, _versions(), config.task), pool


def _device(config: SearchConfig, resources: dict[str, float] | None) -> tuple[str, float, int]:
    """The device of trials, the GPUs that each takes, and the GPUs of a local Ray."""
    if config.device == "cpu":
        return "cpu", 0.0, 0
    if resources is None:
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    else:
        there = int(resources.get("GPU", 0))
    if not there:
        if config.device == "cuda":
            raise RunError(
                f"device cuda: there is no GPU {'here' if resources is None else 'in the cluster'}"
            )
        return "cpu", 0.0, 0
    share = config.gpus_per_trial
    if share is None:
        # Down to Ray's grain, so that all workers fit.
        share = 1.0 if there >= config.workers else int(1000 * there / config.workers) / 1000
    return "cuda", share, there


def _machine_memory() -> int:
    """Bytes of memory of this machine, or of the container if that has a limit."""
    total = int(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _versions() -> dict[str, str]:
    versions = {"recell": str(sys.modules["nas"].__version__), "python": platform.python_version()}
    for name in ("torch", "ray", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions
