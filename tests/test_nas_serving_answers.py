from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
from predictor_fixtures import rows, scores, small

from grammar import Cell, zoo, zoo_text
from nas.errors import ServingError
from nas.serving import Answerer, Limits
from nas.serving import answers as module
from predictors import PredictorError, encode, fit_rows

RENAMED = zoo_text("gru").replace("cell gru", "cell other")


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(small(), Limits())


def said(answerer: Answerer, *texts: str) -> list[Any]:
    return [json.loads(answer) for answer in answerer(texts)]


def test_an_answer_is_what_the_predictor_says(answerer: Answerer) -> None:
    found = said(answerer, zoo_text("gru"), zoo_text("lstm"))
    expected = small().predict([zoo("gru"), zoo("lstm")])
    for place, answer in enumerate(found):
        assert answer["mean"] == pytest.approx(float(expected.mean[place]))
        low, high = answer["interval"]
        assert low < answer["mean"] < high
        assert high - low == pytest.approx(2 * 1.645 * answer["std"])
        assert answer["task"] == "made up"
        assert answer["unit"] is None
        assert 0 <= answer["diverges"] <= 1
    assert [answer["digest"] for answer in found] == [zoo("gru").digest, zoo("lstm").digest]


def test_equal_cells_are_encoded_once(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(cells: list[Cell]) -> Any:
        asked.extend(cell.digest for cell in cells)
        return encode(cells)

    monkeypatch.setattr(module, "encode", counted)
    first, second = said(answerer, zoo_text("mingru"), zoo_text("mingru").replace("cell mingru", "cell m"))
    assert first == second
    assert said(answerer, zoo_text("mingru")) == [first]
    assert asked == [zoo("mingru").digest]
    other = Answerer(small(), Limits())
    fault = module.fault("no cell")
    assert [json.loads(a) for a in other([zoo_text("mingru")], [module.as_json(first), fault])] == [first]
    assert asked == [zoo("mingru").digest]


def test_faults_have_a_place(answerer: Answerer) -> None:
    wrong, unknown, good = said(
        answerer, "cell", "cell c {\n state h: vec; h' = tahn(lin(x, h)); out h' }", zoo_text("gru")
    )
    assert set(wrong) == {"error", "line", "column"}
    assert (unknown["line"], unknown["column"]) == (2, 21)
    assert "did you mean 'tanh'?" in unknown["error"]
    assert "mean" in good


def test_a_cell_that_takes_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(cells: list[Cell]) -> Any:
        if cells[0].digest != zoo("gru").digest:
            while True:
                time.process_time()
        return encode(cells)

    monkeypatch.setattr(module, "encode", endless)
    found = said(Answerer(small(), Limits(seconds=0.1)), zoo_text("elman"), zoo_text("gru"))
    assert "takes more than 0.1 seconds" in found[0]["error"]
    assert "mean" in found[1]
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_bug_is_an_answer_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(cells: list[Cell]) -> Any:
        raise (
            PredictorError("no row") if cells[0].digest == zoo("gru").digest else ZeroDivisionError("oops")
        )

    monkeypatch.setattr(module, "encode", broken)
    first, second = said(Answerer(small(), Limits()), zoo_text("elman"), zoo_text("gru"))
    assert "a bug in recell" in first["error"]
    assert second == {"error": "no row", "line": None, "column": None}
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_old_answers_are_forgotten() -> None:
    answerer = Answerer(small(), Limits(kept=2))
    said(answerer, zoo_text("gru"), zoo_text("elman"), zoo_text("mingru"))
    assert list(answerer._kept) == [zoo("elman").digest, zoo("mingru").digest]


def test_numbers_that_are_not_finite_are_null() -> None:
    assert json.loads(module.as_json({"a": [float("nan"), 1.0, (float("inf"),)]})) == {
        "a": [None, 1.0, [None]]
    }


def test_what_cannot_be_served_is_refused() -> None:
    model = fit_rows(rows()[:10], scores(rows(), False)[:10], extras=rows()[:10, :2], check=False)
    with pytest.raises(ServingError, match="also wants 2 further values of each cell"):
        Answerer(model, Limits())
    with pytest.raises(
        ServingError, match="the limit 'cells' of a server is positive and finite; received 0"
    ):
        Limits(cells=0)
    with pytest.raises(
        ServingError, match="the limit 'seconds' of a server is positive and finite; received inf"
    ):
        Limits(seconds=float("inf"))
