"""Stand-ins for the slow part, for tests of code that uses fingerspell: a backbone that needs no weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fingerspell.backbones import Backbone, Network, Preprocessing
from fingerspell.engines import NetworkEngine, TorchEngine

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


def fake_engine() -> NetworkEngine:
    """Engine that runs the fake backbone, in batches of 64."""
    return TorchEngine(fake_backbone())
