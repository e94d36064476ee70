"""Stand-ins for the slow parts, for tests of code that uses fingerspell: no weights, and no MediaPipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fingerspell import hands, images
from fingerspell.backbones import Backbone, Network, Preprocessing
from fingerspell.engines import NetworkEngine, TorchEngine

if TYPE_CHECKING:
    from fingerspell.hands import Row
    from fingerspell.images import Pixels

_GRID = 4  # the picture is averaged down to so many cells a side


class _Projection(nn.Module):
    """Fixed random projection of the picture's coarse colours."""

    weight: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3 * _GRID * _GRID, dimension, generator=generator))

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, _GRID).flatten(1) @ self.weight


def fake_backbone(size: int = 16, dimension: int = 24) -> Backbone:
    """Backbone whose features tell coarse colours apart and that costs nothing; the same numbers every time."""
    preprocessing = Preprocessing(size, "nearest", "rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    return Backbone.of("fake", Network(_Projection(dimension), preprocessing))


class _FakeReader(_Projection):
    """Projection whose first 26 values are log-probabilities, and whose last five a probable hand in the middle."""

    def __init__(self) -> None:
        super().__init__(94)

    def forward(self, pixels: Tensor) -> Tensor:
        features = super().forward(pixels)
        facts = features[:, :5] * 0 + features.new_tensor([0.9, 0.8, 0.5, 0.5, 0.5])
        return torch.cat([features[:, :26].log_softmax(1), features[:, 26:89].sigmoid(), facts], dim=1)


def fake_reader(size: int = 16) -> Backbone:
    """Backbone that answers as ``reader.Reader`` does, by coarse colours, and pads pictures as it does."""
    preprocessing = Preprocessing(size, "bilinear", "rgb", (127.0,) * 3, (128.0,) * 3, padded=True)
    return Backbone.of("reader", Network(_FakeReader(), preprocessing))


def fake_engine() -> NetworkEngine:
    """Engine that runs the fake backbone, in batches of 64."""
    return TorchEngine(fake_backbone())


class FakeDetector(hands.Detector):
    """Detector whose hands bend with the picture's coarse colours, always the same; dark pictures have none."""

    identity = {"hands": "0" * 64, "mediapipe": "0", "ladder": 0}  # noqa: RUF012 - as the property that it replaces

    def __init__(self) -> None:
        self.file, self.sha256 = Path("fake.task"), "0" * 64

    def look(self, pixels: Pixels) -> Row:
        """See ``hands.Detector.look``."""
        looks = np.zeros((hands.LOOKS, hands.LOOK), np.float32)
        looks[:, hands.SHAPE] = pixels.shape[1] / pixels.shape[0] * np.array(hands.STRETCHES)
        if pixels.mean() < 20:
            return looks.ravel()
        colours = images.resize(pixels, _GRID, "bilinear").astype(np.float32).ravel() / 255
        mixing = np.random.default_rng(0).normal(size=(len(colours), 3 * hands.POINTS)) / len(colours)
        points = np.random.default_rng(1).random(3 * hands.POINTS) / 2 + 0.25 + colours @ mixing
        looks[:, [hands.FOUND, hands.RIGHT, hands.SURE]] = 1, 0.9, 0.9
        seen = points + np.linspace(0, 0.1, hands.LOOKS)[:, None] * np.sin(np.arange(3 * hands.POINTS))  # each its own
        looks[:, hands.PICTURE], looks[:, hands.WORLD] = seen, seen / 10
        return looks.ravel()
