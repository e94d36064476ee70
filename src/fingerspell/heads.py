"""The classifiers that sit on frozen features: the study's perceptron, and a softmax regression."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


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


def head_of(kind: str, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Head of a kind ("mlp" or "linear") from its tensors."""
    in_order = sorted(tensors.items(), key=lambda item: int(item[0].split(".")[0]))
    widths = [value.shape for _, value in in_order if value.ndim == 2]
    if kind == "mlp":
        head = mlp_head(widths[0][1], [shape[0] for shape in widths[:-1]], widths[-1][0])
    else:
        head = nn.Sequential(nn.Linear(widths[0][1], widths[0][0]))
    head.load_state_dict(dict(tensors))
    return head.eval()


def tempered(head: nn.Sequential, temperature: float) -> nn.Sequential:
    """Head whose logits are divided by a temperature: its last layer is scaled, so that nobody need know of it."""
    scaled = copy.deepcopy(head)
    with torch.no_grad():
        for parameter in scaled[-1].parameters():
            parameter.div_(temperature)
    return scaled


def probabilities(head: nn.Module, features: Tensor) -> Tensor:
    """Class probabilities (N, classes) of features (N, dimension), with the head in evaluation mode."""
    head.eval()
    with torch.inference_mode():
        return torch.softmax(head(features), dim=1)
