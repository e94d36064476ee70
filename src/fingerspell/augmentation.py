"""Other pictures of the same letter: turned, moved, mirrored, in another light, out of focus, partly covered.

Kornia changes a batch at once, each picture in its own way, and draws everything from torch's generator. A mirrored
hand is the other hand's same letter; one upside down or turned far may be another letter (K and P, G and Q, U and H).
"""

from __future__ import annotations

from functools import cache

import torch
from kornia import augmentation as kornia
from torch import Tensor


def augment(pictures: Tensor, *, rotation: float, mirrored: bool) -> Tensor:
    """Changed RGB pictures (N, size, size, 3), float32 in 0-255, of pictures of that shape (any type, 0-255).

    Parameters
    ----------
    pictures
        As the network takes them.
    rotation
        Largest turn to either side in degrees.
    mirrored
        Whether every other picture, by chance, is mirrored left to right.
    """
    with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):  # 16 bits would move pixels
        changed: Tensor = changes(rotation, mirrored)(pictures.permute(0, 3, 1, 2).float() / 255)
        return (changed.clamp(0, 1) * 255).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


@cache
def changes(rotation: float, mirrored: bool) -> kornia.AugmentationSequential:
    """What is done to pictures (N, 3, height, width) in 0-1, in order."""
    return kornia.AugmentationSequential(
        kornia.RandomAffine(rotation, (0.1, 0.1), scale=(0.83, 1.2), shear=6.0, padding_mode="border", p=1.0),
        kornia.RandomHorizontalFlip(p=0.5 if mirrored else 0.0),
        kornia.RandomGaussianBlur((5, 5), sigma=(0.1, 2.0), p=0.3),
        kornia.RandomBrightness((0.75, 1.25), p=1.0),
        kornia.RandomContrast((0.7, 1.4), p=1.0),
        kornia.RandomSaturation((0.0, 1.5), p=1.0),
        kornia.RandomPlanckianJitter(p=1.0),  # the colour of lamps and skies
        kornia.RandomErasing(scale=(0.02, 0.25), p=0.25),
        data_keys=["image"],
    )
