"""What networks are pretrained on: the encoding of cells that nobody trained, as few numbers."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from predictors.encoding import encoding_names
from predictors.scaling import fit_columns

Floats = NDArray[np.float64]

_SHARES = {"statistics": 0.1, "flow": 0.3, "probes": 1.0}  # of the squared distance of two rows
_TOGETHER_SHARE = 0.2  # of the variance of all targets
# What an untrained stack makes of neighbouring tokens together: of all that is known without a label, the closest to
# how good a cell is (see `predictors.fitting`).
TOGETHER = r"probes\.layer[123]_after0_(lag\d_\d|order[234])_3"


def free_targets(rows: Floats, outputs: int) -> Floats:
    """The mean of the columns of TOGETHER, then the leading components of all: [n, outputs], of variance 1 in all."""
    from scipy.linalg import eigh

    names = encoding_names()
    columns = fit_columns(rows)
    scaled = columns(rows)
    of = [names[i].split(".")[0] for i in columns.used]
    mean = scaled[:, [bool(re.fullmatch(TOGETHER, names[i])) for i in columns.used]].mean(axis=1)
    each = np.array([_SHARES[group] / of.count(group) for group in of])
    weighed = (scaled - scaled.mean(axis=0)) * np.sqrt(each)
    first = max(weighed.shape[1] - outputs + 1, 0)
    sizes, axes = eigh(weighed.T @ weighed, subset_by_index=(first, weighed.shape[1] - 1))
    sizes, axes = np.maximum(sizes[::-1], 1e-12), axes[:, ::-1]
    parts = (
        weighed @ axes / sizes**0.25
    )  # spread as the root of what they were: or spaces would be all that they tell
    parts *= np.sqrt((1 - _TOGETHER_SHARE) / parts.var(axis=0).sum())
    together = (mean - mean.mean()) / max(float(mean.std()), 1e-9) * np.sqrt(_TOGETHER_SHARE)
    return np.concatenate([together[:, None], parts], axis=1)
