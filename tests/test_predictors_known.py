from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predictor_fixtures import rows, sampled, scores, small

from grammar import zoo
from predictors import PredictorError, PredictorFileError, coverage, fit_rows, load, shipped, shipped_scores


def test_intervals_of_fitted_cells_hold_most_of_them_and_new_ones_stay() -> None:
    model, y = small(), scores(rows())
    ok = np.isfinite(y)
    said = model.predict(sampled())
    assert 0.9 <= coverage(said.mean[ok], said.std[ok], y[ok]) < 1
    assert (said.std >= model.predict_rows(rows()).std).all()
    new = model.predict([zoo("lstm")])
    assert new.std == replace(model, known=None).predict([zoo("lstm")]).std


def test_what_cells_reached_is_kept_in_a_file(tmp_path: Path) -> None:
    digests = [cell.digest for cell in sampled()]
    for how in (False, True):
        small().save(tmp_path / "p", how)
        found = load(tmp_path / "p").reached([*digests, zoo("lstm").digest])
        assert found[:-1].tolist() == scores(rows()).tolist()
        assert np.isnan(found[-1])
    assert np.isnan(replace(small(), known=None).reached(digests)).all()


def test_digests_are_of_one_cell_each() -> None:
    digests, x, y = [cell.digest for cell in sampled()[:12]], rows()[:12], scores(rows(), fail=False)[:12]
    model = fit_rows(x, y)
    for some in (digests[:3], [digests[0]] * 12):
        with pytest.raises(PredictorError, match=r"have a digest each; received \d for 12 cells"):
            model.knowing(some, x, y)
    with pytest.raises(PredictorError, match=r"in hex digits; received \['zzz'\]"):
        small().reached(["zzz"])
    with pytest.raises(PredictorError, match="several digests are wanted, as a list; received one"):
        small().reached(digests[0])


@pytest.mark.parametrize("name", ["digests", "scores", "failed", "error"])
def test_a_file_with_other_arrays_is_refused(tmp_path: Path, name: str) -> None:
    known = small().known
    assert known is not None
    broken: Any = -1.0 if name == "error" else getattr(known, name)[::-1][:-1]
    replace(small(), known=replace(known, **{name: broken})).save(tmp_path / "p")
    with pytest.raises(PredictorFileError, match="of fitted cells"):
        load(tmp_path / "p")


@pytest.mark.parametrize("task", ["text", "modular_arithmetic"])
def test_what_ships_knows_its_cells(task: str) -> None:
    reached = shipped_scores(task)
    found = shipped(task).reached(list(reached))
    assert found.tolist() == list(reached.values())
