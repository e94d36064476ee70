"""Training a head on features. Test pictures never come here."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fingerspell.heads import linear_head, mlp_head
from fingerspell.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fingerspell.progress import Progress
    from fingerspell.recipes import LinearOptions, MlpOptions

# One row an epoch (mlp) or a strength (linear): that number, loss and accuracy on train and validation, and whether
# the head of this row is the one that was kept (1 or 0).
History = list[dict[str, float]]


@dataclass(frozen=True)
class Examples:
    """Features (N, views, dimension) and targets (N,): indices into the sorted labels. View 0 is the original."""

    features: NDArray[np.float32]
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """A head that turns features into logits, and how it got there."""

    head: nn.Module
    history: History


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: batches of 32 are too small to share, and a second thread mostly waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train_mlp(
    train: Examples,
    validation: Examples,
    *,
    classes: int,
    options: MlpOptions,
    seed: int,
    on_progress: Progress = silent,
) -> Trained:
    """Train the study's head by stochastic gradient descent.

    Each epoch shows every training picture once, in a random order, in a view drawn at random: with features of the
    original and the mirrored picture this is exactly what random mirroring does. Loss and accuracy of the history are
    measured after each epoch with the head at rest, on original views.

    With ``options.patience`` the training stops after that many epochs without a lower validation loss, and the best
    epoch's head is kept; without, the last one's, as in the study.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    count, views, dimension = train.features.shape
    features, targets = torch.from_numpy(train.features), torch.from_numpy(train.targets)
    head = mlp_head(dimension, options.hidden, classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=options.learning_rate)
    # Keras's ExponentialDecay without staircase: the rate falls a little at every step.
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, options.decay_rate ** (1 / options.decay_steps))
    history: History = []
    best = head
    for epoch in range(1, options.epochs + 1):
        head.train()
        order, drawn = torch.from_numpy(rng.permutation(count)), torch.from_numpy(rng.integers(views, size=count))
        for batch in _batches(order, options.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features[batch, drawn[batch]]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        history.append({"epoch": epoch} | _scores(head, train, validation))
        on_progress("Training the head", epoch, options.epochs)
        losses = [row["validation_loss"] for row in history]
        if options.patience and losses[-1] == min(losses):
            best = copy.deepcopy(head)
        if options.patience and epoch - 1 - int(np.argmin(losses)) >= options.patience:
            break
    kept = int(np.argmin(losses)) if options.patience else len(history) - 1
    return Trained((best if options.patience else head).eval(), _marked(history, kept))


def train_linear(
    train: Examples,
    validation: Examples,
    *,
    classes: int,
    options: LinearOptions,
    on_progress: Progress = silent,
) -> Trained:
    """Fit softmax regression on standardised features of all views, at each strength; keep the best on validation.

    A strength is scikit-learn's C, the inverse of the L2 penalty. Of equally accurate ones the most regularised wins.
    """
    flat = train.features.reshape(-1, train.features.shape[2])
    targets = np.repeat(train.targets, train.features.shape[1])
    mean, scale = flat.mean(axis=0), flat.std(axis=0) + 1e-6
    standardised = (flat - mean) / scale
    regression = LogisticRegression(warm_start=True, max_iter=options.iterations)
    history: History = []
    best: nn.Module | None = None
    for step, strength in enumerate(sorted(options.strengths), start=1):
        regression.set_params(C=strength)
        with warnings.catch_warnings():  # a fit that used up its iterations is judged on validation like any other
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(standardised, targets)
        weight, bias = _all_classes(regression, classes)
        head = linear_head(weight, bias, mean, scale).eval()
        history.append({"strength": strength} | _scores(head, train, validation))
        accuracies = [row["validation_accuracy"] for row in history]
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            best = head
        on_progress("Training the head", step, len(options.strengths))
    return Trained(best or head, _marked(history, int(np.argmax(accuracies))))


def _marked(history: History, kept: int) -> History:
    return [row | {"kept": int(number == kept)} for number, row in enumerate(history)]


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Batches of an epoch. A last batch of one picture is left out: batch norm has no variance to divide by."""
    return [batch for batch in torch.split(order, size) if len(batch) > 1]


def _scores(head: nn.Module, train: Examples, validation: Examples) -> dict[str, float]:
    head.eval()
    scores = {}
    for name, examples in (("train", train), ("validation", validation)):
        targets = torch.from_numpy(examples.targets)
        with torch.inference_mode():
            logits = head(torch.from_numpy(examples.features[:, 0]))
            scores[f"{name}_loss"] = nn.functional.cross_entropy(logits, targets).item()
            scores[f"{name}_accuracy"] = (logits.argmax(dim=1) == targets).float().mean().item()
    return scores


def _all_classes(regression: LogisticRegression, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (classes, dimension) and biases (classes,); of two classes scikit-learn keeps one row of differences."""
    weight, bias = regression.coef_.astype(np.float32), regression.intercept_.astype(np.float32)
    if classes == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
