"""Scores of predictions against true labels, each with an interval that says how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, precision_recall_fscore_support

from fingerspell.alphabet import STATIC_LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.str_]

CONFIDENCE = 0.95
_RESAMPLES = 1000  # gives the ends of a 95% interval from the 25th value on either side
_PAIRS = 20  # most confused pairs that are kept


def score(true: Labels, predicted: Labels) -> dict[str, Any]:
    """Accuracy and macro F1 with their 95% intervals.

    The interval of the accuracy is Wilson's; that of macro F1 is a percentile bootstrap over pictures. Both take the
    pictures as independent, which frames of one film are not.

    Parameters
    ----------
    true, predicted
        Labels of shape (pictures,).

    Returns
    -------
    dict
        ``pictures``, ``accuracy``, ``accuracy_interval``, ``macro_f1``, ``macro_f1_interval``.
    """
    correct = int((true == predicted).sum())
    interval = binomtest(correct, len(true)).proportion_ci(CONFIDENCE, method="wilson")
    macro_f1, macro_f1_interval = _macro_f1_with_interval(true, predicted)
    return {
        "pictures": len(true),
        "accuracy": correct / len(true),
        "accuracy_interval": [float(interval.low), float(interval.high)],
        "macro_f1": macro_f1,
        "macro_f1_interval": macro_f1_interval,
    }


def scores(true: Labels, predicted: Labels) -> dict[str, Any]:
    """Scores of all letters, and of the pictures of the 24 letters that are held still, if there are any."""
    static = np.isin(true, STATIC_LETTERS)
    named = {"letters": score(true, predicted)}
    return named | ({"static_letters": score(true[static], predicted[static])} if static.any() else {})


def per_letter(true: Labels, predicted: Labels, labels: Sequence[str]) -> dict[str, Any]:
    """Precision, recall, F1 and support of each label, their averages, the confusions, and the text report.

    ``labels`` fixes rows and order, whatever letters occur, so that a missing letter shifts nothing.
    """
    values = precision_recall_fscore_support(true, predicted, labels=list(labels), zero_division=0)
    confusion = confusion_matrix(true, predicted, labels=list(labels))
    return {
        "labels": list(labels),
        "per_letter": [
            {"letter": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in zip(labels, *values, strict=True)
        ],
        **{f"{name}_average": _average(true, predicted, name) for name in ("macro", "weighted")},
        "confused_pairs": _confused_pairs(confusion, labels),
        "confusion": confusion.tolist(),
    }


def text_report(true: Labels, predicted: Labels, labels: Sequence[str]) -> str:
    """Precision, recall, F1 and support of each letter in the layout of scikit-learn's report.

    Its macro average counts a label without pictures as 0; ``score`` gives the one over the letters there are.
    """
    report: str = classification_report(true, predicted, labels=list(labels), zero_division=0)
    return report


def paired_difference(correct: NDArray[np.bool_], other: NDArray[np.bool_], *, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the accuracy of ``correct`` less that of ``other``, on the same pictures.

    If it holds 0, these pictures cannot tell the two models apart.
    """
    differences = correct.astype(float) - other.astype(float)
    rng = np.random.default_rng(seed)
    means = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(_RESAMPLES)]
    low, high = _interval(np.array(means))
    return low, high


def _average(true: Labels, predicted: Labels, name: str) -> dict[str, float]:
    """Average over the letters that have pictures; one without would count as 0."""
    present = np.unique(true)
    p, r, f, _ = precision_recall_fscore_support(true, predicted, labels=present, average=name, zero_division=0)
    return {"precision": float(p), "recall": float(r), "f1": float(f), "support": len(true)}


def _confused_pairs(confusion: NDArray[np.int64], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Wrong answers by letter and answer, the most frequent first."""
    pairs = [
        {
            "letter": labels[row],
            "taken_for": labels[column],
            "pictures": int(confusion[row, column]),
            "share": float(confusion[row, column] / confusion[row].sum()),
        }
        for row, column in np.argwhere(confusion)
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair["pictures"], pair["letter"], pair["taken_for"]))[:_PAIRS]


def _count(cells: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def _macro_f1(confusion: NDArray[np.int64], present: NDArray[np.bool_]) -> float:
    """Mean over letters of 2 TP / (2 TP + FP + FN)."""
    hits = confusion.diagonal()
    denominators = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(2 * hits[present] / np.maximum(denominators[present], 1)))


def _macro_f1_with_interval(true: Labels, predicted: Labels) -> tuple[float, list[float]]:
    """Macro F1 over the labels that are true of some picture, and its percentile bootstrap."""
    names = np.union1d(true, predicted)
    present = np.isin(names, true)
    cells = np.searchsorted(names, true) * len(names) + np.searchsorted(names, predicted)
    rng = np.random.default_rng(0)
    draws = (cells[rng.integers(len(cells), size=len(cells))] for _ in range(_RESAMPLES))
    resampled = np.array([_macro_f1(_count(draw, len(names)), present) for draw in draws])
    return _macro_f1(_count(cells, len(names)), present), list(_interval(resampled))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
