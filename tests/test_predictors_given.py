"""Tables as users have them: records, texts, duplicates, entries that are missing, infinite or far away."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predictor_fixtures import rows, sampled, scores, small

from grammar import Cell, GrammarError, parse, zoo
from predictors import PredictorError, encode, fit, fit_rows, kendall_tau, predictor, read_trials, validate
from predictors.given import finite, tamed

Y = scores(rows(), fail=False)


def test_records_are_fitted_as_cells_and_scores_are(tmp_path: Path) -> None:
    pairs = list(zip(sampled()[:10], map(float, Y), strict=False))
    row = {"task": "text", "size": "s", "seed": 0, "params": 1, "width": 1, "steps": 1, "seconds": 1.0}
    trials = [{**row, "cell": str(c), "digest": c.digest, "status": "ok", "score": y} for c, y in pairs]
    trials.append({**trials[0], "status": "hopeless", "score": None})
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, trials)).encode()))
    expected = fit([cell for cell, _ in pairs], [score for _, score in pairs]).predict(sampled()[10:14]).mean
    texts = [(cell.one_line, score) for cell, score in pairs]
    for records in (tmp_path / "t.jsonl.gz", read_trials(tmp_path / "t.jsonl.gz"), pairs, texts):
        np.testing.assert_allclose(fit(records).predict(sampled()[10:14]).mean, expected, rtol=1e-9)
    card = fit(tmp_path / "t.jsonl.gz").card
    assert (card["task"], card["size"], card["cells"], card["failed_cells"]) == ("text", "s", 10, 0)
    others = [replace(trial, task="other") for trial in read_trials(tmp_path / "t.jsonl.gz")]
    with pytest.raises(PredictorError, match="these are trials of other at size s, text at size s"):
        fit([*read_trials(tmp_path / "t.jsonl.gz"), *others])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([1.0, 2.0], "a record is a trial, or a cell and its score; received '1.0'"),
        ([("cell", "x", 3)], "a record is a trial, or a cell and its score"),
        (zoo("gru"), "records are a table of trials, trials, or pairs"),
        ([], "at least 8 different cells with finite scores; received 0"),
    ],
)
def test_other_records_are_refused(records: list[tuple[Cell, float]], message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        fit(records)


def test_what_is_no_cell_and_no_score_is_said() -> None:
    cells = list(sampled()[:10])
    texts: list[Cell] = [str(cell) for cell in cells]  # type: ignore[misc]
    with pytest.raises(PredictorError, match=r"`grammar\.parse` makes one of a text; received str"):
        fit(texts, Y[:10])
    with pytest.raises(PredictorError, match=r"`grammar\.parse` makes one of a text; received str"):
        small().predict(texts[:1])
    with pytest.raises(PredictorError, match="several cells are wanted, as a list; received one"):
        small().predict(zoo("gru"))  # type: ignore[arg-type]
    with pytest.raises(PredictorError, match="scores are numbers: could not convert"):
        fit(cells, ["bad"] * 10)
    with pytest.raises(PredictorError, match=r"at most 1e\+12 in size, .* received 1e\+13"):
        fit(cells, [1e13, *Y[1:10]])
    with pytest.raises(PredictorError, match="a seed is a whole number from 0 to 4294967295; received -1"):
        fit(cells, Y[:10], seed=-1)
    with pytest.raises(PredictorError, match="a card is JSON: Out of range float"):
        fit(cells, Y[:10], card={"loss": math.nan})
    with pytest.raises(PredictorError, match=r"one score for each of 40 rows; received \(9,\)"):
        fit_rows(rows(), Y[:9])


@pytest.mark.parametrize("bad", [None, 3])
def test_what_is_no_list_is_refused(bad: Any) -> None:
    with pytest.raises(PredictorError, match="several cells are wanted, as a list; received "):
        small().predict(bad)
    with pytest.raises(PredictorError, match="several cells are wanted, as a list; received "):
        fit(bad, Y[:10])
    with pytest.raises(PredictorError, match="records are a table of trials, trials, or pairs"):
        fit(bad)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([10**400] * 10, "numbers: int too large to convert to float"),
        (np.full(10, 1j), "numbers: received complex128"),
        (np.zeros(10, "datetime64[s]"), "numbers: received datetime64"),
        ([[1.0], [1.0, 2.0]] * 5, "numbers: .* inhomogeneous"),
    ],
)
def test_what_is_no_number_is_said(numbers: Any, message: str) -> None:
    cells = sampled()[:10]
    with pytest.raises(PredictorError, match=f"scores are {message}"):
        fit(cells, numbers)
    with pytest.raises(PredictorError, match=f"scores are {message}"):
        fit_rows(rows()[:10], numbers)
    with pytest.raises(PredictorError, match=f"extras are {message}"):
        fit(cells, Y[:10], extras=numbers)
    with pytest.raises(PredictorError, match=f"extras are {message}"):
        small().predict(cells, numbers)
    with pytest.raises(PredictorError, match=f"scores are {message}"):
        validate(cells, numbers)
    with pytest.raises(PredictorError, match="a record is a trial, or a cell and its score"):
        fit([(cells[0], 10**400)])


def test_rows_may_be_lists_and_are_checked() -> None:
    x, y = rows()[:12], Y[:12]
    seed: Any = np.int64(2)
    plain = fit_rows(x.tolist(), y.tolist(), extras=y[:, None].tolist(), seed=seed)
    plain = plain.knowing(
        [cell.digest for cell in sampled()[:12]], x.tolist(), y.tolist(), y[:, None].tolist()
    )
    json.dumps(plain.card)
    expected = fit_rows(x, y, extras=y[:, None], seed=2).predict_rows(x[:3], y[:3, None]).mean
    np.testing.assert_array_equal(plain.predict_rows(x[:3].tolist(), y[:3, None].tolist()).mean, expected)
    with pytest.raises(PredictorError, match=r"scores are at most 1e\+12 in size, .* received 1e\+300"):
        fit_rows(x, np.where(np.arange(12) == 3, 1e300, y))
    with pytest.raises(PredictorError, match=r"extras have a row for each of 12 rows; received \(12,\)"):
        fit_rows(x, y, extras=y)
    for entry in (math.nan, math.inf, 1e300):
        broken = np.where(np.arange(12)[:, None] == 3, entry, x)
        with pytest.raises(PredictorError, match=r"rows are finite numbers of at most 1e\+12"):
            fit_rows(broken, y)
        with pytest.raises(PredictorError, match=r"rows are finite numbers of at most 1e\+12"):
            small().predict_rows(broken)
    with pytest.raises(PredictorError, match="rows are numbers: could not convert"):
        fit_rows("abc", y)


def test_wishes_of_another_kind_are_refused() -> None:
    wishes: list[tuple[dict[str, Any], str]] = [
        *(
            ({"seed": seed}, f"a seed is a whole number from 0 to 4294967295; received {seed}")
            for seed in (1.5, None)
        ),
        ({"prior": "text"}, r"a prior is a predictor \(`predictors.load` reads one\); received str"),
        ({"card": {"a": "x" * (1 << 20)}}, r"a card has at most 1048576 characters of JSON; received \d+"),
    ]
    for wish, message in wishes:
        with pytest.raises(PredictorError, match=message):
            fit_rows(rows()[:12], Y[:12], **wish)


def test_a_record_that_is_no_cell_is_named() -> None:
    with pytest.raises(GrammarError, match="record 2:1:9: the text ends inside a block"):
        fit([(str(zoo("gru")), 1.0), ("cell c {", 1.0)])


def test_a_path_that_none_can_have_is_refused() -> None:
    with pytest.raises(PredictorError, match=r"cannot read the table of trials .*null byte"):
        fit("a\0b")


def test_a_number_beyond_all_others_is_very_large() -> None:
    np.testing.assert_array_equal(finite(np.array([1e300, -math.inf, math.nan, 2])), [1e12, -1e12, -1, 2])


def test_cells_that_look_all_alike_are_refused() -> None:
    text = "cell t(l, r) {{ state h: vec; leaf {{ h' = lin(x) }}; h' = tanh({} * lin(l.h, r.h)); out h' }}"
    with pytest.raises(PredictorError, match="nothing that a predictor sees of these cells tells one from"):
        fit([parse(text.format(0.1 + i / 7)) for i in range(9)], range(9))


def test_equal_cells_have_equal_rows_and_are_encoded_once() -> None:
    gru, lstm = zoo("gru"), zoo("lstm")
    found = encode([gru, lstm, gru, gru.canonical()])
    np.testing.assert_array_equal(found, encode([gru, lstm])[[0, 1, 0, 0]])


def test_an_infinite_loss_of_an_epoch_does_not_hide_the_others() -> None:
    x, losses = rows()[:30], Y[:30, None] * 2
    whole = fit_rows(x, Y[:30], extras=losses)
    far = losses.copy()
    far[3], far[7] = math.inf, 1e30
    model = fit_rows(x, Y[:30], extras=far)
    said = model.predict_rows(rows()[30:], Y[30:, None] * 2)
    alone = fit_rows(x, Y[:30]).predict_rows(rows()[30:])
    assert kendall_tau(said.rank, Y[30:]) > kendall_tau(alone.rank, Y[30:])
    asked = whole.predict_rows(rows()[30:32], np.array([[math.inf], [math.nan]]))
    assert np.isfinite(asked.mean).all()
    assert np.isfinite(asked.std).all()


def test_far_entries_are_brought_near_and_others_left() -> None:
    columns = np.array([[1.0, 5, 0], [2, 5, 0], [3, 5, 1], [4, 5, math.inf], [math.inf, 5, math.nan]])
    found = tamed(finite(columns))
    np.testing.assert_array_equal(found[:4, 0], columns[:4, 0])
    assert 4 < found[4, 0] < 100
    np.testing.assert_array_equal(found[:, 1], 5)
    few = np.array([[0.0]] * 7 + [[1.0], [1e12]])  # the middle half has no width
    np.testing.assert_array_equal(tamed(few)[:, 0], [*[0.0] * 7, 1, 1])
    np.testing.assert_array_equal(tamed(columns[:3]), columns[:3])


def test_a_column_that_is_missing_in_one_training_of_a_cell_is_that_of_the_other() -> None:
    cells, more = list(sampled()[:10]), np.arange(10.0)[:, None]
    one = fit(cells, Y[:10], extras=more)
    twice = fit([*cells, cells[0]], [*Y[:10], Y[0]], extras=np.vstack([more, [[math.nan]]]))
    query = more[:3]
    np.testing.assert_allclose(one.predict(cells[:3], query).mean, twice.predict(cells[:3], query).mean)


def test_intervals_of_few_cells_are_not_thousands_of_scores_wide() -> None:
    width = float(np.ptp(Y[:12]))
    for model in (
        fit_rows(rows()[:8], Y[:8], prior=fit_rows(rows()[:12], Y[:12])),
        fit_rows(rows()[:12], Y[:12], extras=np.array([*Y[:11], math.nan])[:, None]),
    ):
        extras = None if not model.extras else Y[12:20, None]
        assert 0 < np.median(model.predict_rows(rows()[12:20], extras).std) < 10 * width


def test_many_cells_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small().predict_rows(rows())
    monkeypatch.setattr(predictor, "AT_ONCE", 7)
    parts = small().predict_rows(rows())
    for name in ("mean", "std", "out_of_distribution", "novelty", "diverges", "rank", "spread"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
    model = fit_rows(rows()[:25], Y[:25], extras=Y[:25, None])
    assert len(model.predict_rows(rows(), Y[:, None])) == len(rows())
    with pytest.raises(PredictorError, match=r"extras have the shape \[40, 1\]; received \[39, 1\]"):
        model.predict_rows(rows(), Y[1:, None])
