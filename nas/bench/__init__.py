"""How fast cells run: times of backends and baselines in one run, bounds, build times. Needs torch only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.bench.builds import CACHED_AIM as CACHED_AIM
    from nas.bench.builds import COLD_AIM as COLD_AIM
    from nas.bench.builds import Build as Build
    from nas.bench.builds import builds_of as builds_of
    from nas.bench.machine import machine_facts as machine_facts
    from nas.bench.products import products_of as products_of
    from nas.bench.products import transcendentals as transcendentals
    from nas.bench.run import Plan as Plan
    from nas.bench.run import Row as Row
    from nas.bench.run import bench as bench
    from nas.bench.sizes import SIZES as SIZES
    from nas.bench.sizes import BenchSize as BenchSize
    from nas.bench.sizes import read_sizes as read_sizes
    from nas.bench.subjects import BASELINES as BASELINES
    from nas.bench.summary import Outcome as Outcome
    from nas.bench.summary import excess as excess
    from nas.bench.summary import outcomes as outcomes
    from nas.bench.summary import over_limit as over_limit
    from nas.bench.timing import clock as clock

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BASELINES": "nas.bench.subjects",
        "BenchSize": "nas.bench.sizes",
        "Build": "nas.bench.builds",
        "CACHED_AIM": "nas.bench.builds",
        "COLD_AIM": "nas.bench.builds",
        "Outcome": "nas.bench.summary",
        "Plan": "nas.bench.run",
        "Row": "nas.bench.run",
        "SIZES": "nas.bench.sizes",
        "bench": "nas.bench.run",
        "builds_of": "nas.bench.builds",
        "clock": "nas.bench.timing",
        "excess": "nas.bench.summary",
        "machine_facts": "nas.bench.machine",
        "outcomes": "nas.bench.summary",
        "over_limit": "nas.bench.summary",
        "products_of": "nas.bench.products",
        "read_sizes": "nas.bench.sizes",
        "transcendentals": "nas.bench.products",
    },
)
