"""Scores of predictions against true labels, each with an interval that says how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest, norm
from sklearn.metrics import classification_report, confusion_matrix, precision_recall_fscore_support

from fingerspell.alphabet import STATIC_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.str_]
    Groups = NDArray[np.int64]
    Shares = NDArray[np.bool_] | NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 1000  # gives the ends of a 95% interval from the 25th value on either side
_AT_ONCE = 50  # resamples whose confusions are held together
LOOK_ALIKES = ("AEMNST", "UVRK", "GHQ", "DF", "COE")  # sets of letters that share most of a handshape
_PAIRS = 20  # most confused pairs that are kept


def score(true: Labels, predicted: Labels, groups: Groups) -> dict[str, Any]:
    """Accuracy and macro F1 with their 95% intervals.

    The intervals are percentile bootstraps over groups of pictures that were as good as taken together, for these
    are right or wrong together. Where all or none are right, and no draw could differ, the accuracy's is Wilson's for
    so many groups.

    Parameters
    ----------
    true, predicted
        Labels of shape (pictures,).
    groups
        Number of each picture's group, (pictures,); a number of its own for each where they are independent.

    Returns
    -------
    dict
        ``pictures``, ``groups``, ``accuracy``, ``accuracy_interval``, ``macro_f1``, ``macro_f1_interval``.
    """
    names = np.union1d(true, predicted)
    cells = np.searchsorted(names, true) * len(names) + np.searchsorted(names, predicted)
    _, rows = np.unique(groups, return_inverse=True)
    count = int(rows.max()) + 1
    by_group = csr_array((np.ones(len(cells)), (rows, cells)), shape=(count, len(names) ** 2))
    whole: NDArray[np.float64] = by_group.sum(axis=0).reshape(1, len(names), len(names))
    drawn = np.concatenate([whole, *(draw.reshape(-1, len(names), len(names)) for draw in _draws(by_group))])
    accuracies = np.trace(drawn, axis1=1, axis2=2) / drawn.sum(axis=(1, 2))
    macro_f1s = _macro_f1(drawn)
    correct = int((true == predicted).sum())
    if correct in {0, len(true)}:
        wilson = binomtest(round(accuracies[0] * count), count).proportion_ci(CONFIDENCE, method="wilson")
        accuracy_interval = (float(wilson.low), float(wilson.high))
    else:
        accuracy_interval = _interval(accuracies[1:])
    return {
        "pictures": len(true),
        "groups": count,
        "accuracy": correct / len(true),
        "accuracy_interval": list(accuracy_interval),
        "macro_f1": float(macro_f1s[0]),
        "macro_f1_interval": list(_interval(macro_f1s[1:])),
    }


def scores(true: Labels, predicted: Labels, groups: Groups) -> dict[str, Any]:
    """Scores of all letters, and of the pictures of the 24 letters that are held still, if there are any."""
    static = np.isin(true, STATIC_LETTERS)
    named = {"letters": score(true, predicted, groups)}
    return named | ({"static_letters": score(true[static], predicted[static], groups[static])} if static.any() else {})


def per_letter(true: Labels, predicted: Labels, labels: Sequence[str], groups: Groups) -> dict[str, Any]:
    """Precision, recall, F1 and support of each label, their averages, and the confusions.

    The interval of a letter's recall resamples its groups of pictures (``score``).

    ``labels`` fixes rows and order, whatever letters occur, so that a missing letter shifts nothing.
    """
    values = precision_recall_fscore_support(true, predicted, labels=list(labels), zero_division=0)
    confusion = confusion_matrix(true, predicted, labels=list(labels))
    return {
        "labels": list(labels),
        "per_letter": [
            {"letter": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            | _recall_interval(true == label, predicted == label, groups)
            for label, p, r, f, n in zip(labels, *values, strict=True)
        ],
        "look_alikes": _look_alikes(true, predicted),
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


def paired_difference(correct: Shares, other: Shares, groups: Groups) -> tuple[float, float]:
    """95% bootstrap interval, over groups, of the accuracy of ``correct`` less that of ``other`` on the same pictures.

    Each has a number a picture: whether it was read right, or the share of several answers that were. If the interval
    holds 0, these pictures cannot tell the two models apart.
    """
    _, rows = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(rows, correct), np.bincount(rows, other), np.bincount(rows)], axis=1)
    drawn = np.concatenate(list(_draws(csr_array(sums))))
    return _interval((drawn[:, 0] - drawn[:, 1]) / drawn[:, 2])


def quick_difference(correct: Shares, other: Shares, groups: Groups) -> tuple[float, float]:
    """As ``paired_difference``, from the variance between groups and the normal distribution: for many pairs.

    With one group there is no variance to measure, and the interval is all of -1 to 1.
    """
    _, rows = np.unique(groups, return_inverse=True)
    gained = np.bincount(rows, correct.astype(float) - other)
    pictures = np.bincount(rows)
    count, mean = len(pictures), float(gained.sum() / pictures.sum())
    if count == 1:
        return -1.0, 1.0
    spread = np.square(gained - mean * pictures).sum() * count / (count - 1)
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(spread) / pictures.sum())
    return mean - half, mean + half


def _average(true: Labels, predicted: Labels, name: str) -> dict[str, float]:
    """Average over the letters that have pictures; one without would count as 0."""
    present = np.unique(true)
    p, r, f, _ = precision_recall_fscore_support(true, predicted, labels=present, average=name, zero_division=0)
    return {"precision": float(p), "recall": float(r), "f1": float(f), "support": len(true)}


def _recall_interval(own: NDArray[np.bool_], named: NDArray[np.bool_], groups: Groups) -> dict[str, Any]:
    """Interval of the share of a letter's pictures that is named so, and their groups; none without pictures."""
    if not own.any():
        return {"groups": 0, "recall_interval": None}
    found = score(own[own].astype(str), named[own].astype(str), groups[own])
    return {"groups": found["groups"], "recall_interval": found["accuracy_interval"]}


def _look_alikes(true: Labels, predicted: Labels) -> list[dict[str, Any]]:
    """Of each set of letters that look alike: pictures, and the shares named right and taken for another of the set."""
    found = []
    for letters in LOOK_ALIKES:
        own = np.isin(true, list(letters))
        if own.any():
            right = true[own] == predicted[own]
            within = ~right & np.isin(predicted[own], list(letters))
            shares = {"right": float(right.mean()), "within": float(within.mean())}
            found.append({"letters": letters, "pictures": int(own.sum())} | shares)
    return found


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


def _draws(by_group: csr_array) -> Iterator[NDArray[np.float64]]:
    """Sums over groups drawn with replacement, (draws, columns), some of the resamples at once."""
    rng = np.random.default_rng(0)
    count = by_group.shape[0]
    for _ in range(_RESAMPLES // _AT_ONCE):
        times = rng.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE).astype(float)
        yield (by_group.T @ times.T).T


def _macro_f1(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of 2 TP / (2 TP + FP + FN) over the letters that are true of some picture, of each (true, predicted)."""
    hits, own = np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(axis=2)
    f1 = 2 * hits / np.maximum(own + confusions.sum(axis=1), 1)
    values: NDArray[np.float64] = np.where(own > 0, f1, 0).sum(axis=1) / (own > 0).sum(axis=1)
    return values


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
