"""Other pictures of the same letter: turned, moved, mirrored, in another light, out of focus, partly covered.

A batch is changed at once, each picture in its own way. Everything is drawn from torch's generator. A mirrored hand is
the other hand's same letter; one upside down or turned far may be another letter (K and P, G and Q, U and H).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_SCALE = 0.2  # a hand appears up to so much larger or smaller
_SHIFT = 0.1  # of the side, each way
_SHEAR = 0.1
_PERSPECTIVE = 0.1  # one edge appears so much nearer than the middle
_LIGHT = math.log(1.8)  # pictures become up to so many times brighter or darker,
_CONTRAST = math.log(1.4)  # ... as many times harder or softer,
_COLOUR = math.log(1.15)  # ... and each channel so many times stronger or weaker
_GREY = 0.1  # share of pictures without colour
_SOFT = 0.2  # share that is more or less out of focus, and share of more or less half the resolution
_BLUR = 0.04  # of the side, at most: two means over so much
_ERASED = 0.25  # share with a patch that covers them, of at most half the side


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
    pixels = pictures.permute(0, 3, 1, 2).float()  # NHWC in memory, as the network has it
    pixels = _warped(pixels, warps(len(pixels), rotation=rotation, mirrored=mirrored).to(pixels.device))
    pixels = _erased(_relit(_softened(pixels)))
    return pixels.clamp(0, 255).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def warps(count: int, *, rotation: float, mirrored: bool) -> Tensor:
    """Random homographies (count, 3, 3) from where a pixel is shown to where it is taken from, both in -1 to 1.

    The image of the x axis is that of a turn alone; nothing stands on its head.
    """
    turn = torch.deg2rad(_spread(count, rotation))
    zoom = (_spread(count, math.log(1 + _SCALE))).exp()
    across = torch.stack([turn.cos(), turn.sin()], dim=1) * zoom[:, None]
    down = torch.stack([-turn.sin(), turn.cos()], dim=1) * zoom[:, None]
    down = down + across * _spread(count, _SHEAR)[:, None]
    if mirrored:
        across = across * (1 - 2 * torch.randint(2, (count, 1)))
    matrix = torch.eye(3).repeat(count, 1, 1)
    matrix[:, :2, 0], matrix[:, :2, 1] = across, down
    matrix[:, :2, 2] = _spread(2 * count, 2 * _SHIFT).view(count, 2)
    matrix[:, 2, :2] = _spread(2 * count, _PERSPECTIVE).view(count, 2)
    return matrix


def _spread(count: int, limit: float) -> Tensor:
    """Numbers (count,) between -limit and limit."""
    return (2 * torch.rand(count) - 1) * limit


def _warped(pixels: Tensor, matrices: Tensor) -> Tensor:
    size = pixels.shape[-1]
    line = (torch.arange(size, device=pixels.device) * 2 + 1) / size - 1
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).view(1, -1, 3) @ matrices.transpose(1, 2)
    grid = (places[..., :2] / places[..., 2:]).view(-1, size, size, 2)
    return nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _softened(pixels: Tensor) -> Tensor:
    """Some pictures out of focus, some with less resolution."""
    size = pixels.shape[-1]
    drawn, amount = torch.rand(len(pixels)), torch.rand(len(pixels), 1, 1, 1).to(pixels.device)
    blurred, coarse = drawn < _SOFT, drawn > 1 - _SOFT
    changed = pixels.clone()
    if blurred.any():
        reach = max(1, round(_BLUR * size / 2))
        means = pixels[blurred]
        for _ in range(2):
            means = nn.functional.avg_pool2d(means, 2 * reach + 1, 1, reach, count_include_pad=False)
        changed[blurred] = pixels[blurred].lerp(means, amount[blurred])
    if coarse.any():
        small = nn.functional.avg_pool2d(pixels[coarse], 2, ceil_mode=True)
        large = nn.functional.interpolate(small, (size, size), mode="bilinear")
        changed[coarse] = pixels[coarse].lerp(large, amount[coarse])
    return changed


def _relit(pixels: Tensor) -> Tensor:
    """Each picture in its own brightness, contrast and colour."""
    count = len(pixels)

    def factors(limit: float, channels: int = 1) -> Tensor:
        return _spread(count * channels, limit).exp().view(count, channels, 1, 1).to(pixels.device)

    grey = pixels.mean(dim=1, keepdim=True)
    colourful = (torch.rand(count, 1, 1, 1) >= _GREY).to(pixels)
    pixels = grey + (pixels - grey) * colourful * factors(_CONTRAST)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    return (middle + (pixels - middle) * factors(_CONTRAST)) * factors(_LIGHT) * factors(_COLOUR, 3)


def _erased(pixels: Tensor) -> Tensor:
    """Some pictures covered by a patch of one colour."""
    count, size = len(pixels), pixels.shape[-1]
    sides = torch.rand(2, count, 1) * 0.5 * (torch.rand(count, 1) < _ERASED)
    starts = torch.rand(2, count, 1) * (1 - sides)
    line = torch.arange(size) / size
    rows, columns = (line >= starts) & (line < starts + sides)
    patch = (rows[:, None, :, None] & columns[:, None, None, :]).to(pixels.device)
    return torch.where(patch, (255 * torch.rand(count, 3, 1, 1)).to(pixels), pixels)
