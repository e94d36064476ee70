"""How far a model's probabilities can be believed, and when it should say nothing.

A temperature (Guo et al., "On Calibration of Modern Neural Networks", 2017) is fitted on validation pictures, and a
threshold is chosen for a stated risk: the share of wrong letters among those that are named, and the share of pictures
of no letter that get one. Both hold for pictures like these, and for no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Probabilities = NDArray[np.float32]
    Correct = NDArray[np.bool_]

LEAST = 1e-12  # a probability that was rounded to 0
_TEMPERATURES = (0.05, 20.0)  # searched between
_BINS = 15  # Guo et al.'s
_POINTS = 50  # of a curve


@dataclass(frozen=True)
class Calibration:
    """What is fitted on validation pictures.

    Attributes
    ----------
    temperature : float
        What logits are divided by.
    threshold : float
        Probability of the best letter below which a model says "no letter".
    risk : float
        That the threshold was chosen for: of the letters named so many may be wrong, of pictures of no letter so many
        may get one.
    """

    temperature: float
    threshold: float
    risk: float


def fit(
    probabilities: Probabilities,
    targets: NDArray[np.int64],
    risk: float,
    *,
    weights: NDArray[np.float64] | None = None,
    on_others: Probabilities | None = None,
    others_weights: NDArray[np.float64] | None = None,
) -> Calibration:
    """Temperature of the least log loss, and the lowest threshold that keeps the risk.

    As if one picture more had been misread, for its runner-up: without a mistake there is no least loss, and a model
    would be made surer without end.

    Parameters
    ----------
    probabilities
        Of validation pictures, (N, classes), at temperature 1.
    targets
        Columns of their letters, (N,).
    risk
        Between 0 and 1.
    weights
        Of the pictures, (N,): so that a group of many does not outvote the others; None for all alike.
    on_others
        Probabilities of pictures of no letter, (M, classes), at temperature 1; None if there are none.
    others_weights
        Of the pictures of no letter, (M,), as ``weights``.
    """
    weights = np.ones(len(targets)) if weights is None else weights
    logits = np.log(np.maximum(probabilities.astype(float), LEAST))
    runner_up = np.partition(logits, -2, axis=1)[:, -2]

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        scaled = logits / temperature
        peak = scaled.max(axis=1)
        total = peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1))
        mistake = (total - runner_up / temperature) / len(targets)
        return float(np.average(total - scaled[np.arange(len(targets)), targets] + mistake, weights=weights))

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded")
    temperature = float(np.exp(found.x))
    confidence, correct = best(temper(probabilities, temperature), targets)
    threshold = _threshold(confidence, correct, risk, weights)
    if on_others is not None:
        others_weights = np.ones(len(on_others)) if others_weights is None else others_weights
        threshold = max(threshold, _silence(temper(on_others, temperature).max(axis=1), risk, others_weights))
    return Calibration(temperature, threshold, risk)


def temper(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Probabilities (N, classes) whose logits are divided by the temperature."""
    scaled = np.log(np.maximum(probabilities.astype(float), LEAST)) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Probabilities = (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def best(probabilities: Probabilities, targets: NDArray[np.int64]) -> tuple[NDArray[np.float32], Correct]:
    """Probability of the best letter and whether it is right, each (N,)."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets


def calibration_error(confidence: NDArray[np.float32], correct: Correct) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of confidence, by pictures."""
    return float(sum(share * abs(mean - right) for mean, right, share in reliability(confidence, correct)))


def reliability(confidence: NDArray[np.float32], correct: Correct) -> list[list[float]]:
    """Mean confidence, accuracy and share of the pictures of each bin of confidence that has some."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        [float(confidence[bins == n].mean()), float(correct[bins == n].mean()), float((bins == n).mean())]
        for n in np.unique(bins)
    ]


def risk_coverage(confidence: NDArray[np.float32], correct: Correct) -> list[list[float]]:
    """Coverage, risk and threshold where only the surest pictures are named: from few to all of them."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~correct[order])
    counts = np.unique(np.linspace(1, len(order), min(_POINTS, len(order))).round().astype(int))
    return [
        [count / len(order), float(wrong[count - 1] / count), float(confidence[order[count - 1]])] for count in counts
    ]


def _threshold(confidence: NDArray[np.float32], correct: Correct, risk: float, weights: NDArray[np.float64]) -> float:
    """Lowest confidence from which on at most ``risk`` are wrong; more than 1 if none is sure enough."""
    order = np.argsort(-confidence, kind="stable")
    risks = np.cumsum(weights[order] * ~correct[order]) / np.cumsum(weights[order])
    last_of_equals = np.append(np.diff(confidence[order]) != 0, True)  # who is as sure is named with it
    kept = np.flatnonzero((risks <= risk) & last_of_equals)
    if not len(kept):
        return 1.01
    if kept[-1] == len(order) - 1:
        return 0.0  # even naming all of them keeps it
    return float(confidence[order[kept[-1]]])


def _silence(confidence: NDArray[np.float32], risk: float, weights: NDArray[np.float64]) -> float:
    """Lowest threshold at which at most ``risk`` of pictures of no letter (M,) get one."""
    order = np.argsort(-confidence, kind="stable")
    named = np.cumsum(weights[order])
    refused = order[named > risk * named[-1:]]
    return float(np.nextafter(confidence[refused[0]], np.float32(2))) if len(refused) else 0.0
