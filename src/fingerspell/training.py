"""Training a head on features. Test pictures never come here."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from fingerspell import hands
from fingerspell.errors import TuningError
from fingerspell.heads import FusionHead, PointsHead, describe, linear_head, mlp_head, normalise, perceptron
from fingerspell.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fingerspell.progress import Progress
    from fingerspell.recipes import FusionOptions, LinearOptions, MlpOptions, PointsOptions

# One row an epoch (mlp) or a strength (linear): that number, loss and accuracy on train and validation, and whether
# the head of this row is the one that was kept (1 or 0).
History = list[dict[str, float]]

VERSION = 1  # of what a head ends as: raise it whenever a training would end with another
_GATHERED = 128  # batches whose features are copied together
_LEAST_BATCHES = 80  # of points in an epoch: a thousand steps in all, without which a small archive is not learnt
_SCORED = 4096  # pictures that go through a head at once


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
    """Keep torch to one thread: the products are small, and beside other work a second thread mostly waits."""
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
    head = mlp_head(train.features.shape[2], options.hidden, classes)
    parameters = list(head.parameters())
    rate = options.learning_rate
    history: History = []
    best = head
    for epoch in range(1, options.epochs + 1):
        head.train()
        for features, targets in _batches(train, options.batch_size, rng):
            gradients = torch.autograd.grad(nn.functional.cross_entropy(head(features), targets), parameters)
            with torch.no_grad():  # plain descent; the first step of torch.optim would import its compiler for seconds
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=rate)
            # Keras's ExponentialDecay without staircase: the rate falls a little at every step.
            rate *= options.decay_rate ** (1 / options.decay_steps)
        history.append({"epoch": epoch} | _scores(head, train, validation))
        on_progress("Training the head", epoch, options.epochs)
        losses = np.nan_to_num([row["validation_loss"] for row in history], nan=np.inf, posinf=np.inf)
        least = int(losses.argmin())
        if options.patience and least == epoch - 1:
            best = copy.deepcopy(head)
        if options.patience and epoch - 1 - least >= options.patience:
            break
    kept = least if options.patience else len(history) - 1
    if not np.isfinite(losses[kept]):
        raise TuningError(
            f"training the head: the validation loss became {history[kept]['validation_loss']} in epoch {kept + 1}. "
            f"Give a lower head.mlp.learning_rate than {options.learning_rate} in the recipe."
        )
    return Trained((best if options.patience else head).eval(), _marked(history, kept))


@_one_thread()
def train_points(
    train: Examples,
    validation: Examples,
    *,
    classes: int,
    options: PointsOptions,
    fusion: FusionOptions | None = None,
    seed: int,
    on_progress: Progress = silent,
) -> Trained:
    """Train a head on rows of hands, or with ``fusion`` on rows with a network's features behind them.

    Each epoch shows every hand in another direction, size and noise (``disturbed``), those of a small archive often.
    The branches of a fusion have a loss each and share nothing, so that each answers alone where the other sees
    nothing. AdamW, the rate falls along half a cosine.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    points = PointsHead(options.hidden, classes, options.dropout)
    head: PointsHead | FusionHead = points
    if fusion:
        pixels = perceptron([(train.features.shape[2] - hands.ROW) // hands.LOOKS, classes], options.dropout)
        head = FusionHead(points, pixels, fusion.points_weight)
    counts = np.bincount(train.targets, minlength=classes)
    points.missed.copy_(torch.from_numpy(np.log((counts + 1) / (counts + 1).sum())))
    optimiser = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    repeats = max(1, _LEAST_BATCHES // math.ceil(len(train.targets) / options.batch_size))
    history: History = []
    for epoch in range(1, options.epochs + 1):
        head.train()
        optimiser.param_groups[0]["lr"] = (
            options.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / options.epochs)) / 2
        )
        for features, targets in chain.from_iterable(_batches(train, options.batch_size, rng) for _ in range(repeats)):
            loss = _points_loss(points, features[:, : hands.ROW], targets, options)
            if isinstance(head, FusionHead):
                logits = head.pixels(features[:, hands.ROW :].reshape(-1, head.dimension))
                letters = targets.repeat_interleave(hands.LOOKS)
                loss = loss + nn.functional.cross_entropy(logits, letters, label_smoothing=options.label_smoothing)
            if loss.requires_grad:
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        history.append({"epoch": epoch} | _scores(head, train, validation))
        on_progress("Training the head", epoch, options.epochs)
    return Trained(head.eval(), _marked(history, len(history) - 1))


def _points_loss(head: PointsHead, rows: Tensor, targets: Tensor, options: PointsOptions) -> Tensor:
    """Loss on one look, drawn by its voice, at each hand that was found; batch norm needs two."""
    looks = rows.view(-1, hands.LOOKS, hands.LOOK)
    found = looks[:, 0, hands.FOUND] > 0
    if found.sum() < 2:
        return torch.zeros(())
    looks = looks[found]
    drawn = torch.multinomial(looks[:, :, hands.FOUND] * torch.tensor(hands.VOICES), 1)[:, 0]
    points = disturbed(normalise(looks[torch.arange(len(looks)), drawn]), options)
    logits = head.layers(describe(points))
    return nn.functional.cross_entropy(logits, targets[found], label_smoothing=options.label_smoothing)


def disturbed(points: Tensor, options: PointsOptions) -> Tensor:
    """Normalised points (N, 2, 21, 3) as other hands before other cameras might have given them.

    Turned about the line of sight and out of the picture's plane, stretched, shaken, and some mirrored, for the
    detector takes a right hand for a left one now and then. Both kinds of points turn together.
    """
    count = len(points)
    angles = (2 * torch.rand(3, count) - 1) * torch.deg2rad(
        torch.tensor([[options.turn], [options.tilt], [options.tilt]])
    )
    turn, nod, shake = (_rotation(angle, *axes) for angle, axes in zip(angles, ((0, 1), (1, 2), (0, 2)), strict=True))
    points = points @ (turn @ nod @ shake)[:, None]
    points = (
        points
        * (1 + options.stretch * torch.randn(count, 1, 1, 3))
        * (1 + options.stretch * torch.randn(count, 1, 1, 1))
    )
    points = points + options.jitter * torch.randn_like(points)
    side = torch.where(torch.rand(count) < options.flip, -1.0, 1.0)
    return points * torch.stack([side, torch.ones(count), torch.ones(count)], dim=1)[:, None, None]


def _rotation(angles: Tensor, one: int, other: int) -> Tensor:
    """Rotations (N, 3, 3) by angles (N,) in radians in the plane of two axes."""
    matrices = torch.eye(3).repeat(len(angles), 1, 1)
    matrices[:, one, one] = matrices[:, other, other] = angles.cos()
    matrices[:, one, other], matrices[:, other, one] = -angles.sin(), angles.sin()
    return matrices


@_one_thread()
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
    Each strength starts from the solution of the one before.
    """
    flat = train.features.reshape(-1, train.features.shape[2])
    targets = torch.from_numpy(np.repeat(train.targets, train.features.shape[1]))
    mean, scale = flat.mean(axis=0), flat.std(axis=0) + 1e-6
    standardised = torch.from_numpy(flat - mean).div_(torch.from_numpy(scale))
    solution = np.zeros((classes, flat.shape[1] + 1))
    history: History = []
    best: nn.Sequential | None = None
    for step, strength in enumerate(sorted(options.strengths), start=1):
        solution = _fit_softmax(standardised, targets, solution, strength, options.iterations)
        weight, bias = solution[:, :-1].astype(np.float32), solution[:, -1].astype(np.float32)
        head = linear_head(weight, bias, mean, scale).eval()
        history.append({"strength": strength} | _scores(head, train, validation))
        accuracies = [row["validation_accuracy"] for row in history]
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            best = head
        on_progress("Training the head", step, len(options.strengths))
    return Trained(best or head, _marked(history, int(np.argmax(accuracies))))


def _fit_softmax(
    features: Tensor, targets: Tensor, start: NDArray[np.float64], strength: float, iterations: int
) -> NDArray[np.float64]:
    """Weights and, in the last column, biases (classes, dimension + 1) of the least penalised loss, by L-BFGS.

    Loss and tolerance are those of scikit-learn's ``LogisticRegression``; of two classes it penalises one difference,
    so that its C is then twice ours. A fit that used up its iterations is judged on validation like any other.
    """
    penalty = 1 / (strength * len(targets))

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        solution = torch.from_numpy(flat).float().view(start.shape).requires_grad_()
        weight, bias = solution[:, :-1], solution[:, -1]
        loss = nn.functional.cross_entropy(nn.functional.linear(features, weight, bias), targets)
        loss = loss + penalty / 2 * weight.square().sum()
        (gradient,) = torch.autograd.grad(loss, solution)
        return loss.item(), gradient.double().numpy().ravel()

    torch.set_flush_denormal(True)  # sure answers have errors of 1e-40, on which a product is several times slower
    try:
        found = minimize(
            loss_and_gradient,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "gtol": 1e-4, "ftol": 0},
        )
    finally:
        torch.set_flush_denormal(False)
    return np.asarray(found.x).reshape(start.shape)


def _marked(history: History, kept: int) -> History:
    return [row | {"kept": int(number == kept)} for number, row in enumerate(history)]


def _batches(train: Examples, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and targets of an epoch, gathered for many batches at once.

    A last batch of one picture is left out: batch norm has no variance to divide by.
    """
    count, views, _ = train.features.shape
    order, drawn = torch.from_numpy(rng.permutation(count)), torch.from_numpy(rng.integers(views, size=count))
    features, targets = torch.from_numpy(train.features), torch.from_numpy(train.targets)
    for rows in order.split(_GATHERED * size):  # type: ignore[no-untyped-call]
        gathered = features[rows, drawn[rows]].split(size), targets[rows].split(size)  # type: ignore[no-untyped-call]
        yield from (batch for batch in zip(*gathered, strict=True) if len(batch[1]) > 1)


def _scores(head: nn.Module, train: Examples, validation: Examples) -> dict[str, float]:
    head.eval()
    scores = {}
    for name, examples in (("train", train), ("validation", validation)):
        targets = torch.from_numpy(examples.targets)
        originals = torch.from_numpy(examples.features)[:, 0]
        with torch.inference_mode():  # in parts: a copy of all features would double the memory of a run
            logits = torch.cat([head(part) for part in originals.split(_SCORED)])  # type: ignore[no-untyped-call]
            scores[f"{name}_loss"] = nn.functional.cross_entropy(logits, targets).item()
            scores[f"{name}_accuracy"] = (logits.argmax(dim=1) == targets).float().mean().item()
    return scores
