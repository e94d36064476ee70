from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fingerspell import metrics

TRUE = np.array(list("AAAABBBBJJZ"))
PREDICTED = np.array(list("AAABBBBAJZZ"))


def each(labels: np.ndarray) -> np.ndarray:
    """Groups of one picture."""
    return np.arange(len(labels))


def test_accuracy_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    true = rng.choice(list("ABC"), 1000)
    predicted = np.where(rng.random(1000) < 0.8, true, "D")
    score = metrics.score(true, predicted, each(true))
    assert (score["pictures"], score["groups"]) == (1000, 1000)
    assert score["accuracy"] == (true == predicted).mean()
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    low, high = score["accuracy_interval"]
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert low + high == pytest.approx(2 * score["accuracy"], abs=0.004)


def test_pictures_of_a_group_count_as_one() -> None:
    rng = np.random.default_rng(0)
    true = rng.choice(list("ABC"), 100)
    predicted = np.where(rng.random(100) < 0.8, true, "D")
    once = metrics.score(true, predicted, each(true))
    repeated = metrics.score(np.repeat(true, 30), np.repeat(predicted, 30), np.repeat(np.arange(100), 30))
    assert repeated["groups"] == 100
    for key in ("accuracy_interval", "macro_f1_interval"):
        assert repeated[key] == pytest.approx(once[key])


@pytest.mark.parametrize(("right", "expected"), [(True, (0.7225, 1.0)), (False, (0.0, 0.2775))])
def test_all_right_or_wrong_has_wilsons_interval_of_the_groups(right: bool, expected: tuple[float, float]) -> None:
    true = np.array(list("AB" * 20))
    predicted = true if right else np.array(["C"] * 40)
    score = metrics.score(true, predicted, np.arange(40) // 4)
    # Of 10 groups by hand: 1 / (1 + 1.96^2 / 10) = 0.7225.
    assert score["accuracy_interval"] == pytest.approx(expected, abs=1e-3)


def test_macro_f1_is_scikit_learns_over_the_letters_there_are() -> None:
    score = metrics.score(TRUE, PREDICTED, each(TRUE))
    assert score["macro_f1"] == pytest.approx(f1_score(TRUE, PREDICTED, average="macro"))
    low, high = score["macro_f1_interval"]
    assert low < score["macro_f1"] < high
    never_true = np.array(list("AAABBBBQJZZ"))  # Q is predicted and no picture shows it
    expected = f1_score(TRUE, never_true, average="macro", labels=list("ABJZ"))
    assert metrics.score(TRUE, never_true, each(TRUE))["macro_f1"] == pytest.approx(expected)


def test_more_pictures_make_narrower_intervals() -> None:
    few, many = (
        metrics.score(TRUE, PREDICTED, each(TRUE)),
        metrics.score(np.tile(TRUE, 50), np.tile(PREDICTED, 50), np.arange(550)),
    )
    for key in ("accuracy_interval", "macro_f1_interval"):
        assert many[key][1] - many[key][0] < 0.3 * (few[key][1] - few[key][0])


def test_static_letters_are_scored_apart() -> None:
    scores = metrics.scores(TRUE, PREDICTED, each(TRUE))
    assert scores["letters"]["pictures"] == 11
    assert scores["static_letters"]["pictures"] == 8
    assert scores["static_letters"]["accuracy"] == pytest.approx(6 / 8)
    assert set(metrics.scores(TRUE[8:], PREDICTED[8:], each(TRUE[8:]))) == {"letters"}  # J and Z alone


def test_missing_letter_shifts_nothing() -> None:
    found = metrics.per_letter(TRUE, PREDICTED, list("ABCJZ"), each(TRUE))
    rows = {row["letter"]: row for row in found["per_letter"]}
    assert list(rows) == list("ABCJZ")
    absent = {"letter": "C", "precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert rows["C"] == absent | {"groups": 0, "recall_interval": None}
    assert (rows["J"]["precision"], rows["J"]["recall"], rows["J"]["support"]) == (1, 0.5, 2)
    assert rows["J"]["f1"] == pytest.approx(2 / 3)
    low, high = rows["A"]["recall_interval"]
    assert 0 <= low < rows["A"]["recall"] == 0.75 < high <= 1
    assert found["confusion"][3] == [0, 0, 0, 1, 1]
    assert found["macro_average"]["f1"] == pytest.approx(metrics.score(TRUE, PREDICTED, each(TRUE))["macro_f1"])


def test_confused_pairs_are_sorted_by_pictures() -> None:
    true, predicted = np.array(list("UUUURRRV")), np.array(list("RRRUUURV"))
    assert metrics.per_letter(true, predicted, list("RUV"), each(true))["confused_pairs"] == [
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
    low, high = metrics.paired_difference(right, worse, each(right))
    assert 0 < low < right.mean() - worse.mean() < high
    shuffled = rng.permutation(right)
    low, high = metrics.paired_difference(right, shuffled, each(right))
    assert low < 0 < high


def test_letters_that_look_alike() -> None:
    true, predicted = np.array(list("AASSB")), np.array(list("ASAXB"))
    (fists,) = metrics.per_letter(true, predicted, list("ABSX"), each(true))["look_alikes"]
    assert fists == {"letters": "AEMNST", "pictures": 4, "right": 0.25, "within": 0.5}


def test_quick_difference_is_near_the_bootstraps() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(200, size=2000)
    hard = rng.random(200)[groups] < 0.5  # pictures of a group are hard together
    right, worse = rng.random(2000) < 0.9 - 0.3 * hard, rng.random(2000) < 0.8 - 0.3 * hard
    expected = metrics.paired_difference(right, worse, groups)
    assert metrics.quick_difference(right, worse, groups) == pytest.approx(expected, abs=0.006)
    assert metrics.quick_difference(right, worse, np.zeros(2000, int)) == (-1.0, 1.0)
    assert metrics.quick_difference(right, right, groups) == (0.0, 0.0)
