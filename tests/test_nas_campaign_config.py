from __future__ import annotations

import json
from typing import Any

import pytest

from nas.campaign import SearchConfig
from nas.errors import RunError


def test_survives_json() -> None:
    config = SearchConfig(budget=180, baselines=("lstm",), options={"population": 9}, max_trials=3)
    assert SearchConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.replace(seed=4).seed == 4
    assert config.replace(seed=4).options == {"population": 9}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("budget", 0, "budget must be a positive number, got 0 seconds"),
        ("budget", -3.0, "budget must be a positive number, got -3.0 seconds"),
        ("budget", float("nan"), "budget must be a positive number, got nan seconds"),
        ("budget", "3m", "budget must be a positive number, got '3m'"),
        ("workers", 0, "workers must be a whole number of at least 1, got 0"),
        ("workers", True, "workers must be a whole number of at least 1, got True"),
        ("seeds", 0, "seeds must be a whole number of at least 1, got 0"),
        ("heads", 0, "heads must be a whole number of at least 1, got 0"),
        ("finalists", -1, "finalists must be a whole number of at least 0, got -1"),
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", 1 << 31, "seed must be below 2147483648, got 2147483648"),
        ("params", 0, "params must be a whole number of at least 1, got 0"),
        ("max_trials", 1.5, "max_trials must be a whole number of at least 1, got 1.5"),
        ("trial_timeout", 0, "trial_timeout must be a positive number, got 0 seconds"),
        ("trial_memory_gb", -1, "trial_memory_gb must be a positive number, got -1 GB"),
        ("gpus_per_trial", 1.5, "gpus_per_trial above 1 must be whole"),
        ("device", "tpu", "device must be one of auto, cpu, cuda; got 'tpu'"),
        ("data", "", "data must be a file or a folder, got an empty name"),
        ("address", " ", "address must be host:port or auto, got an empty text"),
        ("space", "", "space must be a name, got ''"),
        ("method", None, "method must be a name, got None"),
        ("colour", 1, "unknown setting 'colour'; settings are address, baselines"),
    ],
)
def test_what_makes_no_sense_is_said(field: str, value: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        SearchConfig.from_dict({field: value})
