"""How fast cells run: times of backends and baselines in one run, bounds, build times. Needs torch only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.bench.machine import machine as machine
    from nas.bench.products import products as products
    from nas.bench.products import transcendentals as transcendentals
    from nas.bench.run import Plan as Plan
    from nas.bench.run import Row as Row
    from nas.bench.run import bench as bench
    from nas.bench.sizes import SIZES as SIZES
    from nas.bench.sizes import BenchSize as BenchSize
    from nas.bench.sizes import read_sizes as read_sizes
    from nas.bench.subjects import BASELINES as BASELINES

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BASELINES": "nas.bench.subjects",
        "SIZES": "nas.bench.sizes",
        "BenchSize": "nas.bench.sizes",
        "Plan": "nas.bench.run",
        "Row": "nas.bench.run",
        "bench": "nas.bench.run",
        "machine": "nas.bench.machine",
        "products": "nas.bench.products",
        "read_sizes": "nas.bench.sizes",
        "transcendentals": "nas.bench.products",
    },
)
