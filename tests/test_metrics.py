from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fingerspell import metrics

TRUE = np.array(list("AAAABBBBJJZ"))
PREDICTED = np.array(list("AAABBBBAJZZ"))


def test_accuracy_and_its_wilson_interval() -> None:
    score = metrics.score(TRUE, PREDICTED)
    assert score["pictures"] == 11
    assert score["accuracy"] == pytest.approx(8 / 11)
    # by hand: centre (p + z2/2n)/(1 + z2/n), half width z*sqrt(p(1-p)/n + z2/4n2)/(1 + z2/n), z = 1.96
    p, n, z = 8 / 11, 11, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert score["accuracy_interval"] == pytest.approx([centre - half, centre + half], abs=1e-5)


def test_macro_f1_is_scikit_learns_over_the_letters_there_are() -> None:
    score = metrics.score(TRUE, PREDICTED)
    assert score["macro_f1"] == pytest.approx(f1_score(TRUE, PREDICTED, average="macro"))
    low, high = score["macro_f1_interval"]
    assert low < score["macro_f1"] < high
    never_true = np.array(list("AAABBBBQJZZ"))  # Q is predicted and no picture shows it
    expected = f1_score(TRUE, never_true, average="macro", labels=list("ABJZ"))
    assert metrics.score(TRUE, never_true)["macro_f1"] == pytest.approx(expected)


def test_more_pictures_make_narrower_intervals() -> None:
    few, many = metrics.score(TRUE, PREDICTED), metrics.score(np.tile(TRUE, 50), np.tile(PREDICTED, 50))
    for key in ("accuracy_interval", "macro_f1_interval"):
        assert many[key][1] - many[key][0] < 0.3 * (few[key][1] - few[key][0])


def test_static_letters_are_scored_apart() -> None:
    scores = metrics.scores(TRUE, PREDICTED)
    assert scores["letters"]["pictures"] == 11
    assert scores["static_letters"]["pictures"] == 8
    assert scores["static_letters"]["accuracy"] == pytest.approx(6 / 8)
    assert set(metrics.scores(TRUE[8:], PREDICTED[8:])) == {"letters"}  # J and Z alone


def test_missing_letter_shifts_nothing() -> None:
    found = metrics.per_letter(TRUE, PREDICTED, list("ABCJZ"))
    rows = {row["letter"]: row for row in found["per_letter"]}
    assert list(rows) == list("ABCJZ")
    assert rows["C"] == {"letter": "C", "precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert rows["J"] == {"letter": "J", "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert found["confusion"][3] == [0, 0, 0, 1, 1]
    assert found["macro_average"]["f1"] == pytest.approx(metrics.score(TRUE, PREDICTED)["macro_f1"])


def test_confused_pairs_are_sorted_by_pictures() -> None:
    true, predicted = np.array(list("UUUURRRV")), np.array(list("RRRUUURV"))
    assert metrics.per_letter(true, predicted, list("RUV"))["confused_pairs"] == [
        {"letter": "U", "taken_for": "R", "pictures": 3, "share": 0.75},
        {"letter": "R", "taken_for": "U", "pictures": 2, "share": pytest.approx(2 / 3)},
    ]


def test_text_report_has_scikit_learns_layout() -> None:
    lines = metrics.text_report(TRUE, PREDICTED, list("ABJZ")).splitlines()
    assert lines[0].split() == ["precision", "recall", "f1-score", "support"]
    assert lines[2].split() == ["A", "0.75", "0.75", "0.75", "4"]
    assert [line.split()[0] for line in lines[-3:]] == ["accuracy", "macro", "weighted"]


def test_paired_difference_tells_a_real_one_from_none() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.8
    worse = right & (rng.random(2000) < 0.95)
    low, high = metrics.paired_difference(right, worse)
    assert 0 < low < right.mean() - worse.mean() < high
    shuffled = rng.permutation(right)
    low, high = metrics.paired_difference(right, shuffled)
    assert low < 0 < high
