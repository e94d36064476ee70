"""A training of milliseconds, light to import for programs that tests start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fingerspell.recipes import FineTuningOptions

OPTIONS = FineTuningOptions(enabled=True, epochs=2, batch_size=16, learning_rate=0.01)


class Points:
    """Points around four centres."""

    def __init__(self, count: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.arange(count) % 4
        self.points = torch.randn(count, 6, generator=generator) * 0.5
        self.points[torch.arange(count), self.targets] += 2
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        self.asked.append(rows)
        return self.points[rows], self.targets[rows]


def small_network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4))


def cross_entropy(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def noisy_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Loss that draws from torch's generator, as augmentation does."""
    return cross_entropy(network, (batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]))
