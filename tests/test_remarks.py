from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import pytest

from fingerspell.alphabet import LETTERS
from fingerspell.remarks import (
    LOOK_ALIKES,
    chosen,
    confused_pair,
    few_per_letter,
    hardly_names,
    letter_without_letter,
    letters_absent,
    look_alike,
    loss_not_falling,
    loss_not_finite,
    memorised,
    never_predicted,
    overfitting,
    reference_leak,
    remarks,
    risk_not_kept,
    still_rising,
    strength_at_edge,
    training_below_validation,
    validation_above_test,
    weak_conditions,
    wide_interval,
    worst_letters,
)

Row = dict[str, float]


def score(accuracy: float, half_width: float = 0.01) -> dict[str, Any]:
    interval = [accuracy - half_width, accuracy + half_width]
    return {
        "pictures": 2600,
        "groups": 321,
        "accuracy": accuracy,
        "accuracy_interval": interval,
        "macro_f1": accuracy,
        "macro_f1_interval": interval,
    }


def condition(accuracy: float, low: float, high: float) -> dict[str, Any]:
    return {"letters": score(accuracy), "difference": [low, high]}


@pytest.fixture
def metrics() -> dict[str, Any]:
    """A run without anything to remark on."""
    size = len(LETTERS)
    average = {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 2600}
    return {
        "labels": list(LETTERS),
        "scores": {"letters": score(0.9)},
        "conditions": {"original": {"letters": score(0.9)}, "mirrored": condition(0.89, -0.02, 0.0)},
        "per_letter": [
            {"letter": letter, "precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 100} for letter in LETTERS
        ],
        "macro_average": average,
        "weighted_average": average,
        "confused_pairs": [{"letter": "U", "taken_for": "R", "pictures": 4, "share": 0.04}],
        "confusion": [[90 if row == column else 1 for column in range(size)] for row in range(size)],
        "split": {"protocol": "first-per-class", "reference_leak": False},
        "calibration": {
            "risk": 0.05,
            "named": 0.6,
            "wrong_of_named": 0.05,
            "others": {"nothing": {"pictures": 100, "named": 4}},
        },
    }


def epochs(
    train_loss: list[float],
    validation_loss: list[float] | None = None,
    train_accuracy: list[float] | None = None,
    validation_accuracy: list[float] | None = None,
) -> list[Row]:
    """A history that is unremarkable in whatever is not given."""
    count = len(train_loss)
    columns = (
        range(1, count + 1),
        train_loss,
        train_accuracy or [0.9] * count,
        validation_loss or train_loss,
        validation_accuracy or [0.9] * count,
        [0] * (count - 1) + [1],
    )
    names = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "kept")
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def strengths(validation_accuracy: dict[float, float], train_accuracy: float = 0.9) -> list[Row]:
    common = {"train_loss": 0.4, "train_accuracy": train_accuracy, "validation_loss": 0.5}
    best = min(validation_accuracy, key=lambda c: (-validation_accuracy[c], c))
    rows = validation_accuracy.items()
    return [{"strength": c, **common, "validation_accuracy": value, "kept": float(c == best)} for c, value in rows]


FALLING = [2.0, 1.0, 0.6, 0.4, 0.3]


def test_quiet_run_has_no_remarks(metrics: dict[str, Any]) -> None:
    assert remarks(metrics, epochs(FALLING)) == []


def test_evaluation_without_split_and_history(metrics: dict[str, Any]) -> None:
    del metrics["split"]
    assert remarks(metrics) == []
    assert remarks(metrics | {"split": None}, []) == []


def test_metrics_are_left_as_they_are(metrics: dict[str, Any]) -> None:
    before = copy.deepcopy(metrics)
    remarks(metrics, epochs(FALLING))
    assert metrics == before


def test_leak_comes_first_and_loud(metrics: dict[str, Any]) -> None:
    metrics["split"]["reference_leak"] = True
    metrics["scores"]["letters"] = score(0.9, half_width=0.2)
    first, second = remarks(metrics, epochs(FALLING))
    assert first == reference_leak(metrics)
    assert first.startswith("Do not quote this score: the test pictures were allowed into training.")
    assert second.startswith("Few independent test pictures")


@pytest.mark.parametrize(("half_width", "expected"), [(0.049, False), (0.051, True)])
def test_wide_interval(metrics: dict[str, Any], half_width: float, expected: bool) -> None:
    metrics["scores"]["letters"] = score(0.8, half_width)
    said = wide_interval(metrics)
    assert bool(said) is expected
    if said:
        assert "from 0.749 to 0.851" in said


@pytest.mark.parametrize(("wrong", "expected"), [(0.1, False), (0.14, True)])
def test_risk_not_kept(metrics: dict[str, Any], wrong: float, expected: bool) -> None:
    metrics["calibration"]["wrong_of_named"] = wrong
    said = risk_not_kept(metrics)
    assert bool(said) is expected
    if said:
        assert "named 14% are wrong, where 5% were to be" in said
    assert risk_not_kept(metrics | {"calibration": None}) is None


@pytest.mark.parametrize(("named", "expected"), [(0.012, False), (0.002, True)])
def test_hardly_names(metrics: dict[str, Any], named: float, expected: bool) -> None:
    metrics["calibration"]["named"] = named
    said = hardly_names(metrics)
    assert bool(said) is expected
    if said:
        assert "named on 0.2% of the pictures" in said
    assert hardly_names(metrics | {"calibration": None}) is None


@pytest.mark.parametrize(("named", "expected"), [(6, False), (17, True)])
def test_letter_without_letter(metrics: dict[str, Any], named: int, expected: bool) -> None:
    metrics["calibration"]["others"]["del"] = {"pictures": 100, "named": named + 10}  # beside 4 of "nothing"
    said = letter_without_letter(metrics)
    assert bool(said) is expected
    if said:
        assert "Of 200 pictures of no letter 16% get one" in said
    metrics["calibration"]["others"] = {}
    assert letter_without_letter(metrics) is None


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "expected"),
    [
        (0.86, -0.06, -0.02, False),
        (0.95, 0.03, 0.07, False),
        (0.84, -0.1, -0.02, True),
        (0.84, -0.2, 0.01, False),  # may be chance
    ],
)
def test_weak_conditions(metrics: dict[str, Any], accuracy: float, low: float, high: float, expected: bool) -> None:
    metrics["conditions"]["darker"] = condition(accuracy, low, high)
    remark = weak_conditions(metrics)
    assert bool(remark) is expected
    if remark:
        assert "darker 0.840, against 0.900" in remark


def test_mirrored_pictures_are_advised(metrics: dict[str, Any]) -> None:
    metrics["conditions"]["mirrored"] = condition(0.5, -0.5, -0.3)
    assert "mirrored 0.500, against 0.900. If training saw no mirrored" in (weak_conditions(metrics) or "")


@pytest.mark.parametrize("conditions", [{}, None])
def test_conditions_not_measured(metrics: dict[str, Any], conditions: None) -> None:
    metrics["conditions"] = conditions
    assert weak_conditions(metrics) is None


def test_validation_above_test(metrics: dict[str, Any]) -> None:
    easy = epochs([1.0, 0.5], validation_accuracy=[0.5, 0.98])
    said = validation_above_test(metrics | {"scores": {"letters": score(0.80)}}, easy)
    assert said
    assert "Validation accuracy reached 0.980 but test accuracy 0.800" in said
    assert validation_above_test(metrics | {"scores": {"letters": score(0.94)}}, easy) is None


def test_validation_above_test_looks_at_the_chosen_row(metrics: dict[str, Any]) -> None:
    metrics["scores"]["letters"] = score(0.90)
    assert validation_above_test(metrics, epochs([1.0, 0.5], validation_accuracy=[0.99, 0.92])) is None
    assert validation_above_test(metrics, strengths({0.1: 0.5, 1.0: 0.99, 10.0: 0.92}))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", ["train_loss", "validation_loss"])
def test_loss_not_finite_silences_the_other_curve_remarks(metrics: dict[str, Any], bad: float, column: str) -> None:
    history = epochs(FALLING, train_accuracy=[0.99] * 5, validation_accuracy=[0.5] * 5)
    history[2][column] = bad
    assert remarks(metrics, history) == [loss_not_finite(history)]
    assert "epoch 3" in remarks(metrics, history)[0]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.2, 3.3, 3.25], True),
        ([3.25, 3.24, 3.23], True),  # by less than a hundredth
        ([3.25, 3.3, 3.1], False),
        ([0.04, 0.04, 0.04], False),  # learnt already
        ([3.25], False),  # one epoch has no direction
    ],
)
def test_loss_not_falling(losses: list[float], expected: bool) -> None:
    assert bool(loss_not_falling(epochs(losses))) is expected


def test_overfitting_names_the_epochs() -> None:
    history = epochs([2.0, 1.0, 0.6, 0.4, 0.3, 0.2, 0.1], [1.5, 0.9, 0.7, 0.6, 0.605, 0.7, 0.8])
    assert overfitting(history) == (
        "Validation loss rises from epoch 6 while training loss falls: overfitting. "
        "It was lowest at epoch 4, which early stopping (patience) would keep."
    )


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (FALLING, [2.0, 1.0, 0.7, 0.6, 0.5]),  # no rise
        (FALLING, [2.0, 1.0, 0.7, 0.5, 0.6]),  # one epoch alone
        (FALLING, [2.0, 1.0, 0.5, 0.7, 0.505]),  # came back
        (FALLING, [2.0, 1.0, 0.5, 0.505, 0.508]),  # within the margin
        (FALLING, [2.0, 1.0, 0.010, 0.012, 0.014]),  # a loss near zero
        ([2.0, 1.0, 0.5, 0.6, 0.7], [2.0, 1.0, 0.5, 0.6, 0.7]),  # training loss rises too: not overfitting
        ([1.0], [1.0]),
    ],
)
def test_overfitting_near_misses(train: list[float], validation: list[float]) -> None:
    assert overfitting(epochs(train, validation)) is None


def test_overfitting_from_the_first_epoch_on() -> None:
    said = overfitting(epochs([1.0, 0.5, 0.2], [0.8, 0.9, 1.0]))
    assert said
    assert "from epoch 2" in said
    assert "lowest at epoch 1," in said


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5, 0.7, 0.8], True),
        ([0.5, 0.79, 0.794], False),  # by less than half a point
        ([0.5, 0.85, 0.8], False),
        ([0.8], False),
    ],
)
def test_still_rising(accuracies: list[float], expected: bool) -> None:
    history = epochs(FALLING[: len(accuracies)], validation_accuracy=accuracies)
    assert bool(still_rising(history)) is expected


def test_still_rising_does_not_contradict_overfitting() -> None:
    history = epochs(FALLING, [1.0, 0.5, 0.6, 0.7, 0.8], validation_accuracy=[0.5, 0.6, 0.7, 0.8, 0.9])
    assert overfitting(history)
    assert still_rising(history) is None


@pytest.mark.parametrize(("train", "expected"), [(0.99, False), (0.85, False), (1.0, True)])
def test_memorised(train: float, expected: bool) -> None:
    assert bool(memorised(epochs([0.1], train_accuracy=[train], validation_accuracy=[0.895]))) is expected
    assert bool(memorised(strengths({1.0: 0.895}, train))) is expected


@pytest.mark.parametrize(("train", "expected"), [(0.89, False), (0.95, False), (0.87, True)])
def test_training_below_validation(train: float, expected: bool) -> None:
    history = epochs([0.1], train_accuracy=[train], validation_accuracy=[0.895])
    assert bool(training_below_validation(history)) is expected
    assert bool(training_below_validation(strengths({1.0: 0.895}, train))) is expected


@pytest.mark.parametrize(
    ("accuracies", "edge"),
    [
        ({0.1: 0.9, 1.0: 0.8, 10.0: 0.7}, "smallest"),
        ({10.0: 0.9, 1.0: 0.8, 0.1: 0.7}, "largest"),
        ({0.1: 0.8, 1.0: 0.9, 10.0: 0.7}, None),
        ({0.1: 0.8, 1.0: 0.9, 10.0: 0.9}, None),  # a tie goes to the smaller one, which is inside
        ({1.0: 0.9}, None),
    ],
)
def test_strength_at_edge(accuracies: dict[float, float], edge: str | None) -> None:
    said = strength_at_edge(strengths(accuracies))
    assert said is None if edge is None else f"is the {edge} that was tried" in (said or "")


def test_strengths_get_no_remarks_about_epochs(metrics: dict[str, Any]) -> None:
    history = strengths({0.1: 0.7, 1.0: 0.9, 10.0: 0.89})
    assert remarks(metrics, history) == []


def test_chosen() -> None:
    assert chosen([{"epoch": 1, "kept": 1}, {"epoch": 2, "kept": 0}])["epoch"] == 1


def test_letters_absent(metrics: dict[str, Any]) -> None:
    assert letters_absent(metrics) is None
    metrics["per_letter"][9]["support"] = 0  # J is known to the model and has no picture
    assert letters_absent(metrics) == "No test pictures of J: the figures say nothing about this letter."
    del metrics["per_letter"][25]
    assert letters_absent(metrics) == "No test pictures of J, Z: the figures say nothing about these letters."


def test_few_per_letter(metrics: dict[str, Any]) -> None:
    metrics["per_letter"][9]["support"] = 30
    assert few_per_letter(metrics) is None
    metrics["per_letter"][9]["support"] = 12
    metrics["per_letter"][10]["support"] = 0  # the business of letters_absent
    assert few_per_letter(metrics) == "Fewer than 30 test pictures of J (12): the figures of this letter are rough."
    for row in metrics["per_letter"]:
        row["support"] = 5
    said = few_per_letter(metrics)
    assert said
    assert said.startswith("No letter has 30 test pictures")


def test_never_predicted(metrics: dict[str, Any]) -> None:
    assert never_predicted(metrics) is None
    for row in metrics["confusion"]:
        row[25] = 0
    assert never_predicted(metrics) == "Never given as an answer: Z."
    metrics["confusion"][25] = [0] * 26  # nor was it ever asked
    assert never_predicted(metrics) is None


def test_worst_letters(metrics: dict[str, Any]) -> None:
    for place, f1 in enumerate([0.4, 0.3, 0.6, 0.5, 0.76]):
        metrics["per_letter"][place]["f1"] = f1
    said = worst_letters(metrics)
    assert said == "Weakest letters: B (F1 0.300), A (F1 0.400), D (F1 0.500); the mean of all letters is 0.900."


def test_worst_letters_need_to_stand_out(metrics: dict[str, Any]) -> None:
    metrics["per_letter"][0]["f1"] = 0.76
    metrics["per_letter"][1] |= {"f1": 0.0, "support": 0}
    assert worst_letters(metrics) is None


@pytest.mark.parametrize(
    ("letter", "taken_for", "expected"),
    [("U", "R", "known look-alikes (index and middle finger up"), ("U", "A", "not known look-alikes")],
)
def test_confused_pair(metrics: dict[str, Any], letter: str, taken_for: str, expected: str) -> None:
    metrics["confused_pairs"].insert(0, {"letter": letter, "taken_for": taken_for, "pictures": 12, "share": 0.12})
    said = confused_pair(metrics)
    assert said
    assert f"{letter} taken for {taken_for}, 12 pictures or 12% of all {letter}" in said
    assert expected in said


@pytest.mark.parametrize("pairs", [[], [{"letter": "U", "taken_for": "R", "pictures": 2, "share": 0.5}]])
def test_confused_pair_near_misses(metrics: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    assert confused_pair(metrics) is None  # share 0.04
    assert confused_pair(metrics | {"confused_pairs": pairs}) is None


def test_look_alike_is_symmetric() -> None:
    assert look_alike("M", "N") == look_alike("N", "M") == LOOK_ALIKES[0][1]
    assert look_alike("K", "P")
    assert look_alike("B", "X") is None


def test_module_needs_the_standard_library_alone() -> None:
    code = "import sys, fingerspell.remarks; print([m for m in ('numpy', 'matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
