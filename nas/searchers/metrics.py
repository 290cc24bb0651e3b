"""What is known of a cell besides its loss, and what a search can minimise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "params": "trainable parameters of the whole model",
        "flops": "floating-point operations per step and sample of the whole model",
        "state_bytes": "bytes of recurrent state per sample (float32)",
        "gemm_depth": "matrix products one after the other in a step",
        "latency_us": "measured microseconds per step of a sequence (batch 1, forward)",
    }
)
"""All but the last are known before anything is trained or run; lower is better."""

OBJECTIVES = ("loss", *METRICS)
"""What a multi-objective search can minimise: the validation score, and the metrics."""
MEASURED = ("latency_us",)
"""Metrics that cost a measurement."""
