"""Predictors: how good a cell will be, before it is trained. Sees cells and arrays, never torch modules."""

from __future__ import annotations

from predictors.benchmark import Benchmark as Benchmark
from predictors.benchmark import read_benchmark as read_benchmark
from predictors.encoding import encode as encode
from predictors.encoding import encoding_key as encoding_key
from predictors.encoding import encoding_names as encoding_names
from predictors.errors import PredictorError as PredictorError
from predictors.errors import PredictorFileError as PredictorFileError
from predictors.files import load as load
from predictors.fitting import classes_of as classes_of
from predictors.fitting import fit as fit
from predictors.fitting import fit_rows as fit_rows
from predictors.flow import flow_features as flow_features
from predictors.metrics import auc as auc
from predictors.metrics import coverage as coverage
from predictors.metrics import kendall_tau as kendall_tau
from predictors.metrics import spearman as spearman
from predictors.models import MODELS as MODELS
from predictors.models import model_names as model_names
from predictors.models import model_rows as model_rows
from predictors.predictor import Prediction as Prediction
from predictors.predictor import Predictor as Predictor
from predictors.probes import probe_features as probe_features
from predictors.probes import probe_names as probe_names
from predictors.shipping import TABLE as TABLE
from predictors.shipping import shipped as shipped
from predictors.shipping import shipped_scores as shipped_scores
from predictors.shipping import shipped_tasks as shipped_tasks
from predictors.similar import Neighbour as Neighbour
from predictors.similar import similar as similar
from predictors.statistics import cell_statistics as cell_statistics
from predictors.statistics import statistic_names as statistic_names
from predictors.trials import Trial as Trial
from predictors.trials import read_trials as read_trials
from predictors.validation import cross_validation as cross_validation
from predictors.validation import validate as validate
