"""A laboratory for searchers: trained cells answer for a training, so that a search takes seconds and has 50 seeds."""

from __future__ import annotations

from nas.searchers.lab.figures import Comparison as Comparison
from nas.searchers.lab.figures import Interval as Interval
from nas.searchers.lab.figures import compare as compare
from nas.searchers.lab.figures import interval as interval
from nas.searchers.lab.pool import Pool as Pool
from nas.searchers.lab.pool import PoolSpace as PoolSpace
from nas.searchers.lab.pool import benchmark_pool as benchmark_pool
from nas.searchers.lab.pool import trials_pool as trials_pool
from nas.searchers.lab.replay import Answer as Answer
from nas.searchers.lab.replay import Answerer as Answerer
from nas.searchers.lab.replay import Trace as Trace
from nas.searchers.lab.replay import replay as replay
from nas.searchers.lab.replay import table_answers as table_answers
from nas.searchers.lab.surrogate import FEATURES as FEATURES
from nas.searchers.lab.surrogate import Surrogate as Surrogate
from nas.searchers.lab.surrogate import all_or_nothing as all_or_nothing
