"""Other views of the same hand, with the truth about them: near and far, before other walls, in another light.

A batch is changed at once, each picture in its own way, and its 21 points with it. Everything is drawn from torch's
generator. A mirrored hand is the other hand's same letter; one turned far may be another (K and P, G and Q, U and H).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from fingerspell.reader import MARGIN, VIEW

_TURN = math.radians(20)
_STRETCH, _SHEAR = 0.1, 0.1
_SQUEEZE = 0.5 * math.log(2)  # of pictures that somebody squeezed: a stretch makes one wider and as much lower
# Sides of a view in boxes of the points: what the close looks see, with their mistakes, and what the whole picture is.
_NEAR, _FAR = (0.8 * MARGIN, 1.24 * MARGIN), (1.8, 4.5)
_SHARE_FAR = 0.32
_OFF_MIDDLE = 0.12  # of the box, in a near view
_UNFOUND = (0.8, 1.1)  # sides of a view where nobody knows where the hand is, in sides of the picture
_SWAPPED, _PASTED = 0.35, 0.25  # shares: the hand alone, and the whole picture, before another background
_EMPTY = 0.08  # share of views without a hand
_COVERED = 0.2  # share with a patch on them
_BONES = (
    *((0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (5, 6), (6, 7), (7, 8), (5, 9), (9, 10), (10, 11), (11, 12)),
    *((9, 13), (13, 14), (14, 15), (15, 16), (13, 17), (17, 18), (18, 19), (19, 20), (0, 17), (0, 9), (0, 13)),
)
_THICK, _SOFT_EDGE = 0.33, 0.06  # of the palm's length: half the thickness of what is cut out along the bones
_CUT_CELLS = 28  # a side, of the mask that cuts a hand out


@dataclass(frozen=True)
class Hands:
    """Pictures of hands, and what is known of them.

    Attributes
    ----------
    pixels : Tensor
        (N, 3, side, side) in 0-1.
    points : Tensor
        (N, 21, 3): x and y in shares of the side, z in the same scale.
    right : Tensor
        (N,): 1 for right hands, 0 for left ones.
    trust : Tensor
        (N,): weight of the points and of the side, 0 where they are unknown.
    letters : Tensor
        (N,): index of the answer (``reader.ANSWERS``).
    shown : Tensor
        (N,): 1 where there is a hand, 0 where there is none.
    """

    pixels: Tensor
    points: Tensor
    right: Tensor
    trust: Tensor
    letters: Tensor
    shown: Tensor


def scenes(hands: Hands, backgrounds: Tensor, no_letter: int, squeezed: float = 0.0) -> tuple[Hands, Tensor]:
    """Changed views (N, 3, 96, 96) of a batch with their points, and which of them (N,) are far.

    Parameters
    ----------
    hands
        Batch; its tensors are not changed.
    backgrounds
        Pictures without a hand (M, 3, side, side), uint8.
    no_letter
        Answer to a view without a hand.
    squeezed
        Share of views whose width is half to twice as much of their height as it was.
    """
    count = len(hands.letters)
    known = hands.trust > 0
    far = (torch.rand(count) < _SHARE_FAR) & known
    seen, inside = _framed(hands, far, squeezed)
    before = _framed_backgrounds(backgrounds, count)
    cut = _cut_out(seen.points) * inside
    draw = torch.rand(count)
    kept = torch.ones_like(inside)
    kept = torch.where(_each((draw < _SWAPPED) & known), cut, kept)
    kept = torch.where(_each((draw >= _SWAPPED) & (draw < _SWAPPED + _PASTED)), inside, kept)
    empty = torch.rand(count) < _EMPTY
    kept = torch.where(_each(empty), torch.zeros_like(kept), kept)
    pixels = seen.pixels * kept + before * (1 - kept)
    pixels = _relit(_covered(pixels, before.flip(0)))
    return (
        replace(
            seen,
            pixels=_coarsened(pixels).clamp(0, 1),
            trust=torch.where(empty, 0.0, seen.trust),
            letters=torch.where(empty, no_letter, seen.letters),
            shown=torch.where(empty, 0.0, seen.shown),
        ),
        far & ~empty,
    )


def turned(hands: Tensor) -> Tensor:
    """Normalised hands (N, 21, 3) turned in space, each a little in its own way, and their points shaken."""
    count = len(hands)
    for first, second, most in ((1, 2, 0.35), (0, 2, 0.45), (0, 1, 0.25)):  # radians
        angle = _between(count, -most, most)
        matrix = torch.eye(3).repeat(count, 1, 1)
        matrix[:, first, first] = matrix[:, second, second] = angle.cos()
        matrix[:, first, second], matrix[:, second, first] = -angle.sin(), angle.sin()
        hands = hands @ matrix
    return hands + 0.02 * torch.randn_like(hands)


def _framed(hands: Hands, far: Tensor, squeezed: float = 0.0) -> tuple[Hands, Tensor]:
    """Hands seen through turned, stretched, mirrored frames; and where a view (N, 1, 96, 96) is inside the picture."""
    count = len(far)
    low, high = hands.points[:, :, :2].amin(1), hands.points[:, :, :2].amax(1)
    known = hands.trust > 0
    middle = torch.where(known[:, None], (low + high) / 2, torch.full_like(low, 0.5))
    box = torch.where(known, (high - low).amax(1), torch.full((count,), 1 / MARGIN))
    away = (torch.rand(count) * math.log(_FAR[1] / _FAR[0])).exp() * _FAR[0]
    side = torch.where(far, away, _between(count, *_NEAR)) * box
    side = torch.where(known, side, _between(count, *_UNFOUND))
    slack = torch.where(far, (side - 1.2 * box) / 2, _OFF_MIDDLE * box)
    middle = middle + _between(2 * count, -1, 1).view(count, 2) * slack[:, None]
    turn, stretch = _between(count, -_TURN, _TURN), _between(count, -_STRETCH, _STRETCH)
    if squeezed:
        stretch = torch.where(torch.rand(count) < squeezed, _between(count, -_SQUEEZE, _SQUEEZE), stretch)
    stretch = stretch.exp()
    flip = 1.0 - 2.0 * torch.randint(2, (count,))
    across = torch.stack([turn.cos(), turn.sin()], dim=1) * (stretch * flip)[:, None]
    down = torch.stack([-turn.sin() / stretch + _between(count, -_SHEAR, _SHEAR), turn.cos() / stretch], dim=1)
    matrix = torch.stack([across, down], dim=2) * side[:, None, None]
    grid = affine_grid(torch.cat([matrix, (2 * middle - 1)[:, :, None]], dim=2), [count, 3, VIEW, VIEW], False)
    pixels = grid_sample(hands.pixels, grid, padding_mode="border", align_corners=False)
    flat = (2 * (hands.points[:, :, :2] - middle[:, None])) @ torch.linalg.inv(matrix).transpose(1, 2)
    points = torch.cat([(flat + 1) / 2, hands.points[:, :, 2:] / side[:, None, None]], dim=2)
    right = torch.where(flip < 0, 1 - hands.right, hands.right)
    return replace(hands, pixels=pixels, points=points, right=right), (grid.abs() <= 1).all(3)[:, None].float()


def _framed_backgrounds(backgrounds: Tensor, count: int) -> Tensor:
    """Some of the backgrounds, each a part of it and perhaps mirrored, (count, 3, 96, 96)."""
    chosen = backgrounds[torch.randint(len(backgrounds), (count,))].float() / 255
    side = _between(count, 0.4, 1.0)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = side * (1.0 - 2.0 * torch.randint(2, (count,)))
    matrix[:, 1, 1] = side
    matrix[:, :, 2] = _between(2 * count, -1, 1).view(count, 2) * (1 - side)[:, None]
    grid = affine_grid(matrix, [count, 3, VIEW, VIEW], False)
    return grid_sample(chosen, grid, padding_mode="border", align_corners=False)


def _cut_out(points: Tensor) -> Tensor:
    """Mask (N, 1, 96, 96) of what lies near the bones of hands (N, 21, 3)."""
    flat = points[:, :, :2]
    palm = (flat[:, 0] - flat[:, 9]).norm(dim=1).maximum((flat[:, 5] - flat[:, 17]).norm(dim=1)).clamp(min=0.02)
    cells = (torch.arange(_CUT_CELLS) + 0.5) / _CUT_CELLS
    where = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=2).view(1, 1, -1, 2)
    start = flat[:, [bone[0] for bone in _BONES], None]
    bone = flat[:, [bone[1] for bone in _BONES], None] - start
    along = (((where - start) * bone).sum(3) / bone.square().sum(3).clamp(min=1e-6)).clamp(0, 1)
    apart = (where - start - along[..., None] * bone).square().sum(3).sqrt().amin(1)
    mask = ((_THICK - apart / palm[:, None]) / _SOFT_EDGE).sigmoid().view(-1, 1, _CUT_CELLS, _CUT_CELLS)
    return interpolate(mask, size=VIEW, mode="bilinear")


def _covered(pixels: Tensor, patches: Tensor) -> Tensor:
    """Views, some with a patch of another picture on them."""
    count = len(pixels)
    cells = (torch.arange(VIEW) + 0.5) / VIEW
    inside = []
    for axis in (cells[None, None, :], cells[None, :, None]):
        middle, half = torch.rand(count)[:, None, None], _between(count, 0.05, 0.18)[:, None, None]
        inside.append((axis - middle).abs() < half)
    chosen = (torch.rand(count) < _COVERED)[:, None, None]
    return torch.where((inside[0] & inside[1] & chosen)[:, None], patches, pixels)


def _relit(pixels: Tensor) -> Tensor:
    """Views under another light, of another colour, with another camera's contrast, saturation and gamma."""
    count = len(pixels)
    pixels = pixels * _each(_between(count, -0.6, 0.5).exp()) * (0.12 * torch.randn(count, 3, 1, 1)).exp()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * _each(_between(count, 0.6, 1.4))
    grey = pixels.mean(1, keepdim=True)
    colour = torch.where(torch.rand(count) < 0.08, 0.0, _between(count, 0.5, 1.5))
    pixels = grey + (pixels - grey) * _each(colour)
    return pixels.clamp(1e-3, 1) ** _each(_between(count, -0.35, 0.35).exp())


def _coarsened(pixels: Tensor) -> Tensor:
    """Views, three in eight of them with fewer pixels, each eighth as few as it draws, and all with noise."""
    count = len(pixels)
    parts = list(pixels.chunk(8))
    for number in range(min(3, len(parts))):
        side = int(torch.randint(VIEW // 4, VIEW, ()))
        small = interpolate(parts[number], size=side, mode="bilinear", antialias=True)
        parts[number] = interpolate(small, size=VIEW, mode="bilinear")
    return torch.cat(parts) + torch.randn(count, 1, VIEW, VIEW) * _each(torch.rand(count) * 0.05)


def _each(values: Tensor) -> Tensor:
    """Values (N,) against pictures (N, 3, side, side)."""
    return values[:, None, None, None]


def _between(count: int, low: float, high: float) -> Tensor:
    return torch.rand(count) * (high - low) + low
