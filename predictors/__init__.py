"""Predictors: how good a cell will be, before it is trained. Sees cells and arrays, never torch modules."""

from __future__ import annotations

from predictors.statistics import cell_statistics as cell_statistics
from predictors.statistics import statistic_names as statistic_names
