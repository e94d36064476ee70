"""The classifiers that sit on features: the study's perceptron, a softmax regression, and two that read hand points.

``points`` reads the row of a hand (``hands.py``); ``fusion`` reads the row with a network's features of each of its
looks behind it.
"""

from __future__ import annotations

import copy
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fingerspell import hands
from fingerspell.alphabet import LETTERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

_PALM = (0, 5, 9, 13, 17)  # wrist and knuckles: they move least against one another
# From the wrist along each finger, and across the palm.
_BONES = [(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, hands.POINTS)]
_BONES += [(5, 9), (9, 13), (13, 17)]
_BENDS = [(bone, bone + 1) for bone in range(19) if bone % 4 != 3]  # bones of one finger that meet in a joint
_SPANS = [pair for pair in combinations(range(hands.POINTS), 2) if set(pair) & set(hands.TIPS)]
_LEAST = 1e-6
DOUBT = 0.05  # share of the uniform in what goes into a pool


def normalise(rows: Tensor) -> Tensor:
    """Points (N, 2, 21, 3) of looks (N, 131), those of the picture and those of the world, in a frame of the hand.

    The origin is the palm's centre, the unit the length of the palm, and a left hand is mirrored to a right one. The
    direction of the hand is kept: K and P, G and Q, U and H differ in nothing else. Of a missed hand all are 0.
    """
    picture = rows[:, hands.PICTURE].reshape(-1, hands.POINTS, 3)
    shape = rows[:, hands.SHAPE, None]  # x and z in heights of the picture, as y is
    picture = picture * torch.stack([shape, torch.ones_like(shape), shape], dim=2)
    points = torch.stack([picture, rows[:, hands.WORLD].reshape(-1, hands.POINTS, 3)], dim=1)
    points = points - points[:, :, _PALM].mean(dim=2, keepdim=True)
    palm = _length(points[:, :, _PALM[1:]].mean(dim=2) - points[:, :, 0])
    side = torch.where(rows[:, hands.RIGHT] >= 0.5, 1.0, -1.0)
    mirror = torch.stack([side, torch.ones_like(side), torch.ones_like(side)], dim=1)
    return points / palm[:, :, None, None] * mirror[:, None, None]


def describe(points: Tensor) -> Tensor:
    """What is read of normalised points (N, 2, 21, 3): they themselves, directions of bones, bends, spans of tips."""
    bones = points[:, :, [end for _, end in _BONES]] - points[:, :, [start for start, _ in _BONES]]
    bones = bones / _length(bones).unsqueeze(-1)
    bends = (bones[:, :, [one for one, _ in _BENDS]] * bones[:, :, [other for _, other in _BENDS]]).sum(dim=3)
    spans = _length(points[:, :, [one for one, _ in _SPANS]] - points[:, :, [other for _, other in _SPANS]])
    return torch.cat([part.flatten(1) for part in (points, bones, bends, spans)], dim=1)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=-1).clamp_min(_LEAST**2).sqrt()


DESCRIPTION = describe(torch.zeros(1, 2, hands.POINTS, 3)).shape[1]


def doubting(logits: Tensor) -> Tensor:
    """Log-probabilities (N, classes) for a pool, mixed with a little of the uniform.

    Who knows the training people by heart is sure of everything, and could otherwise not be outvoted.
    """
    return ((1 - DOUBT) * torch.softmax(logits, dim=1) + DOUBT / logits.shape[1]).log()


def _found(rows: Tensor) -> Tensor:
    """Which looks (N, 4) of rows found the hand."""
    return rows.reshape(-1, hands.LOOKS, hands.LOOK)[:, :, hands.FOUND] > 0


def _pooled(answers: Tensor, heard: Tensor) -> Tensor:
    """Weighted geometric mean (N, classes) of log-probabilities (N, 4, 2, classes) of the looks (N, 4) that are heard.

    Of a hand that is squeezed out of shape, or mirrored, nothing is read for sure; so each reading has a voice by how
    sure it is: one over its perplexity, the number of letters that it hesitates between, times how likely its shape is
    (``hands.VOICES``). Where no look is heard all are 0.
    """
    entropy = -(answers.exp() * answers).sum(dim=3)
    likely = torch.tensor(hands.VOICES)[:, None]
    voices = torch.where(heard[:, :, None], (-entropy).exp() * likely, 0.0)[:, :, :, None]
    return (answers * voices).sum(dim=(1, 2)) / voices.sum(dim=(1, 2)).clamp_min(_LEAST)


class PointsHead(nn.Module):
    """Perceptron on the points of a hand: rows (N, 524) in, logits (N, classes) out.

    It reads each look at the hand twice, as a right hand's and as a left one's, for MediaPipe is often wrong about the
    side, and answers with the pool of those that found it. A missed hand has the logits ``missed``, the shares of the
    letters in training.
    """

    missed: Tensor
    temperature: Tensor

    def __init__(self, hidden: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = perceptron([DESCRIPTION, *hidden, classes], dropout)
        self.register_buffer("missed", torch.zeros(classes))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of rows."""
        found = _found(rows)
        pooled = _pooled(self.answers(rows), found)
        return torch.where(found.any(dim=1, keepdim=True), pooled, self.missed) / self.temperature

    def answers(self, rows: Tensor) -> Tensor:
        """Log-probabilities (N, 4, 2, classes) of each look, read as a right hand and as a left one."""
        points = normalise(rows.reshape(-1, hands.LOOK))
        sides = torch.stack([points, points * torch.tensor([-1.0, 1.0, 1.0])], dim=1).flatten(0, 1)
        answers = doubting(self.layers(describe(sides)))
        return answers.view(-1, hands.LOOKS, 2, answers.shape[1])


class FusionHead(nn.Module):
    """Points and a network's features of each look, a branch each: (N, 524 + 4 * dimension) in, logits out.

    In every look both answer together, with the weighted geometric mean of their probabilities (a logarithmic opinion
    pool): of a picture that was squeezed, both are sure of the look that undoes it, and of the same letter. So looks
    are pooled like those of the points alone, each by how sure its answer is, and those that missed the hand are not
    heard. Where all did, the network alone answers, of the picture as it is; where features are all 0, the points.
    """

    weight: Tensor
    temperature: Tensor

    def __init__(self, points: PointsHead, pixels: nn.Sequential, weight: float = 0.5) -> None:
        super().__init__()
        self.dimension = next(iter(pixels.state_dict().values())).shape[-1]
        self.points, self.pixels = points, pixels
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, joined: Tensor) -> Tensor:
        """Logits of rows with features behind them."""
        rows, features = joined[:, : hands.ROW], joined[:, hands.ROW :]
        found, there = _found(rows), features.abs().amax(dim=1, keepdim=True) > 0
        points = self.points.answers(rows)
        pixels = doubting(self.pixels(features.reshape(-1, self.dimension))).view_as(points[:, :, :1])
        voices = torch.stack([self.weight * found, (1 - self.weight) * there.expand_as(found)])
        of_points, of_pixels = (voices / voices.sum(dim=0).clamp_min(_LEAST))[:, :, :, None, None]
        together = of_points * points + of_pixels * pixels
        as_it_is = torch.arange(hands.LOOKS) == 0
        heard = found | (~found.any(dim=1, keepdim=True) & there & as_it_is)
        pooled = _pooled(torch.log_softmax(together, dim=3), heard)
        return torch.where(heard.any(dim=1, keepdim=True), pooled, self.points.missed) / self.temperature


def perceptron(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Batch norm, then dense layers, between them batch norm, ReLU and dropout."""
    layers: list[nn.Module] = [nn.BatchNorm1d(widths[0]), nn.Dropout(dropout)]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-3])


def mlp_head(dimension: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """Reference study's head: batch norm, then dense layers with ReLU between; logits come out.

    Batch norm and initial weights are as Keras has them by default, which the study used: epsilon 0.001, moving
    averages that keep 0.99 of themselves, Glorot uniform weights, zero biases.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(dimension, eps=1e-3, momentum=0.01)]
    widths = [dimension, *hidden, classes]
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def linear_head(
    weight: NDArray[np.float32], bias: NDArray[np.float32], mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> nn.Sequential:
    """Softmax regression on standardised features, folded into one layer.

    ``weight`` (classes, dimension) and ``bias`` (classes,) hold for ``(features - mean) / scale``.
    """
    folded = weight / scale
    linear = nn.Linear(*reversed(folded.shape))
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(folded))
        linear.bias.copy_(torch.from_numpy(bias - folded @ mean))
    return nn.Sequential(linear)


def own_head(dimension: int, labels: Sequence[str]) -> nn.Sequential:
    """What a reader says of these letters, with which its features begin: there is nothing to train."""
    linear = nn.Linear(dimension, len(labels))
    with torch.no_grad():
        linear.bias.zero_()
        linear.weight.zero_()
        for row, label in enumerate(labels):
            linear.weight[row, LETTERS.index(label)] = 1
    return nn.Sequential(linear)


def head_of(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Head of a kind ("mlp", "linear", "points", "fusion" or "own") from its tensors."""
    head: nn.Module
    if kind == "points":
        head = PointsHead(*_widths(tensors, "layers."))
    elif kind == "fusion":
        first = tensors["pixels.0.weight"]  # of a batch norm, or the one layer of a reader's own answer
        hidden, classes = _widths(tensors, "points.layers.")
        own = first.ndim == 2
        pixels = nn.Sequential(nn.Linear(*first.shape[::-1])) if own else perceptron([len(first), classes], 0.0)
        head = FusionHead(PointsHead(hidden, classes), pixels)
    else:
        widths = [value.shape for _, value in _in_order(tensors) if value.ndim == 2]
        if kind == "mlp":
            head = mlp_head(widths[0][1], [shape[0] for shape in widths[:-1]], widths[-1][0])
        else:
            head = nn.Sequential(nn.Linear(widths[0][1], widths[0][0]))
    head.load_state_dict(dict(tensors))
    return head.eval()


def _widths(tensors: Mapping[str, Tensor], prefix: str) -> tuple[list[int], int]:
    """Hidden widths and classes of a perceptron whose tensors have this prefix."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    *hidden, classes = [value.shape[0] for _, value in _in_order(own) if value.ndim == 2]
    return hidden, classes


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: int(item[0].split(".")[0]))


def tempered(head: nn.Module, temperature: float) -> nn.Module:
    """Head whose logits are divided by a temperature, inside, so that nobody need know of it."""
    scaled = copy.deepcopy(head)
    with torch.no_grad():
        if isinstance(scaled, nn.Sequential):
            for parameter in scaled[-1].parameters():
                parameter.div_(temperature)
        else:
            scaled.get_buffer("temperature").mul_(temperature)
    return scaled


def probabilities(head: nn.Module, features: Tensor) -> Tensor:
    """Class probabilities (N, classes) of features (N, dimension), with the head in evaluation mode."""
    head.eval()
    with torch.inference_mode():
        return torch.softmax(head(features), dim=1)
