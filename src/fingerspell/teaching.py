"""Teach the reader: letters by their labels, and where a hand's points are by MediaPipe, its teacher.

A picture is seen in many scenes (``scenes.py``). Pictures of no letter teach when to say nothing: hands that make other
signs, and parts of pictures where no hand is. Rendered hands come first, for the truth about them is exact: what is
learnt from them alone holds whoever is taught after them. The teacher is needed here alone; a taught reader looks by
itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate, kl_div

from fingerspell import hands, images
from fingerspell.alphabet import LETTERS
from fingerspell.backbones import Backbone, Network
from fingerspell.features import decoded
from fingerspell.finetuning import fit, kept_pixels, tuned
from fingerspell.neighbours import bursts
from fingerspell.reader import ANSWERS, MEAN, REACH, STD, Look, Reader, grid, normalised
from fingerspell.scenes import Hands, scenes, turned
from fingerspell.streams import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.images import Pixels
    from fingerspell.progress import Progress
    from fingerspell.reader import HandNetwork
    from fingerspell.recipes import FineTuningOptions

    Rows = NDArray[np.float32]

# Part of the key under which weights are remembered: raise it whenever a training would end with others.
VERSION = 7

_SIDE = 128  # pixels of a training picture: of the public sets few have more
_RENDERED_FIRST = 1.6  # epochs of rendered hands for each epoch of all: they come in any number, and are exact
_SQUEEZED_LAST = 0.2  # epochs of squeezed scenes for each epoch of all, at least one ...
_SQUEEZED_RATE = 0.35  # ... of the learning rate, and the share of its scenes that are squeezed
_SQUEEZED = 0.4
_NO_LETTER = ANSWERS - 1
_WITHOUT_HAND = ("nothing", "Blank")
_DOUBTFUL = 0.4  # trust in points that the teacher found only with low confidence
_SMOOTHING = 0.1
_FAR_LETTERS = 0.3  # weight of a letter that is seen from afar: it is there to be found first
# Weights of the losses beside the letters'.
_POINTS, _HEATMAPS, _PRESENT, _RIGHT, _BY_POINTS, _MIDDLE, _SIZE = 4.0, 2.0, 0.3, 0.3, 0.5, 0.5, 0.5
_PRACTICE = 8  # times that each hand is turned, to learn letters from points: next to the views they cost nothing
_POINT_SPREAD = 0.05  # of the hand's box: what is near to a point is nearly right
_MIDDLE_SPREAD = 0.7  # cells: the neighbours of the one that the hand's middle is in are nearly right
_BACKGROUNDS, _DRAWN = 1500, 400
_NO_LETTER_SHARE = 0.04  # of what is shown, beside the letters
_ROOM = 0.3  # of a picture's side, at least, beside a hand, for a background


def teach(  # noqa: PLR0913 - what a reader is taught with
    backbone: Backbone,
    archive: Archive,
    pictures: Sequence[Picture],
    rows: Rows,
    groups: Mapping[str, str],
    options: FineTuningOptions,
    folder: Path,
    *,
    seed: int = 0,
    on_progress: Progress,
) -> Backbone:
    """Train a reader on pictures of letters and of none: on rendered ones alone, on all, and on all squeezed at last.

    Squeezed pictures (``hands.py``) come last and briefly: from them alone it learns less of those that are in shape.

    Parameters
    ----------
    backbone
        A reader, where the training starts; it is not changed.
    archive
        Where the pictures are.
    pictures
        Training pictures and no others, N of them, of letters and of no letter.
    rows
        What the teacher says of each, (N, ``hands.ROW``), or what is known of rendered ones.
    groups
        Picture id to group. Groups are shown in proportion to the root of their bursts, and their letters alike.
    options, folder, seed, on_progress
        As for ``finetuning.fine_tune``.

    Raises
    ------
    TuningError, CacheError, DatasetError
        As ``finetuning.fine_tune``.
    """

    def stage(start: Backbone, which: NDArray[np.bool_], options: FineTuningOptions, squeezed: float = 0.0) -> Backbone:
        """Reader that goes on from ``start`` on some of the pictures, with its batch norm."""
        own = [picture for picture, wanted in zip(pictures, which, strict=True) if wanted]
        shares = _shares(own, groups)
        facts = {
            "rows": hashlib.sha256(rows[which].tobytes()).hexdigest(),
            "shares": shares.round(9).tolist(),
            "squeezed": squeezed,
        }

        def train(network: Network, home: Path) -> nn.Module:
            lessons = _lessons(archive, own, rows[which], home, on_progress)
            loss = partial(_scene_loss, _backgrounds(lessons, seed), squeezed)
            eye = cast("Reader", network.layers).eye.learning()
            trained = fit(eye, lessons, loss, options, home, seed=seed, shares=shares, on_progress=on_progress)
            return Reader(cast("HandNetwork", trained)).requires_grad_(requires_grad=False).eval()

        return tuned(start, own, [facts, VERSION], options, folder, seed, train)

    rows = rows[:, : hands.LOOK]  # of other looks it learns nothing
    taught, rendered = backbone, rows[:, hands.STEP] == hands.DRAWN
    everything = np.ones_like(rendered)
    if rendered.any():
        taught = stage(taught, rendered, replace(options, epochs=round(_RENDERED_FIRST * options.epochs)))
    taught = stage(taught, everything, options)
    epochs, rate = max(1, round(_SQUEEZED_LAST * options.epochs)), options.learning_rate
    last = replace(options, epochs=epochs, learning_rate=rate and _SQUEEZED_RATE * rate)
    taught = stage(taught, everything, last, _SQUEEZED)
    eye = cast("Reader", taught.network.layers).eye
    # Weights that 16 bits hold: a model is stored in half the room, and none the worse.
    return Backbone.of(backbone.name, Network(Reader(eye.folded()).half().float(), backbone.preprocessing))


@dataclass(frozen=True)
class _Lessons:
    """Pictures (N, 128, 128, 3), padded to squares, and what is known of them, as ``scenes.Hands`` has it."""

    pixels: NDArray[np.uint8]
    facts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        return torch.from_numpy(self.pixels[rows]), *(fact[rows] for fact in self.facts)


def _lessons(
    archive: Archive, pictures: Sequence[Picture], rows: Rows, folder: Path, on_progress: Progress
) -> _Lessons:
    pixels = kept_pixels(folder, _squares(archive, pictures), len(pictures), _SIDE, on_progress)
    known = rows[:, hands.FOUND] > 0
    trust = np.where(rows[:, hands.STEP] < hands.DOUBTFUL, 1.0, _DOUBTFUL) * known
    letters = [LETTERS.index(p.label) if p.label in LETTERS else _NO_LETTER for p in pictures]
    surely = trust == 1
    shown = [float(sure or p.label not in _WITHOUT_HAND) for p, sure in zip(pictures, surely, strict=True)]
    points = torch.from_numpy(_in_square(rows))
    facts = (rows[:, hands.RIGHT] > 0.5, trust * shown, shown)
    right, trusted, there = (torch.from_numpy(np.asarray(fact, np.float32)) for fact in facts)
    return _Lessons(pixels, (points, right, trusted, torch.tensor(letters), there))


def _squares(archive: Archive, pictures: Sequence[Picture]) -> Iterator[Pixels]:
    def square(work: tuple[Picture, bytes]) -> Pixels:
        return images.fitted(decoded(*work, _SIDE), _SIDE, "bilinear")

    work = ((picture, archive.read(picture.id)) for picture in pictures)
    return ordered_map(square, work, size=lambda item: len(item[1]))


def _in_square(rows: Rows) -> Rows:
    """Points (N, 21, 3) in shares of the picture that is padded to a square, from the teacher's first looks."""
    points = rows[:, hands.PICTURE].reshape(-1, hands.POINTS, 3)
    shape = np.maximum(rows[:, hands.SHAPE], 1e-6)[:, None]
    width, height = np.minimum(1, shape), np.minimum(1, 1 / shape)
    x = (points[:, :, 0] - 0.5) * width + 0.5
    y = (points[:, :, 1] - 0.5) * height + 0.5
    return np.stack([x, y, points[:, :, 2] * width], axis=2).astype(np.float32)


def _backgrounds(lessons: _Lessons, seed: int) -> Tensor:
    """Pictures without a hand, uint8 (M, 3, 128, 128): rooms beside the hands of training pictures, and drawn ones."""
    generator = torch.Generator().manual_seed(seed)
    points, _, trust, _, shown = lessons.facts
    found = []
    for row in torch.randperm(len(lessons), generator=generator).tolist():
        pixels = torch.from_numpy(np.array(lessons.pixels[row])).permute(2, 0, 1)
        if not shown[row]:
            found.append(pixels)
        elif trust[row] and (room := _room(pixels, points[row])) is not None:
            found.append(room)
        if len(found) == _BACKGROUNDS:
            break
    return torch.stack([*found, *(_drawn(generator) for _ in range(_DRAWN))])


def _room(pixels: Tensor, points: Tensor) -> Tensor | None:
    """Largest square at an edge of a picture (3, side, side) that its hand leaves free, enlarged to the whole."""
    middle = (points[:, :2].amin(0) + points[:, :2].amax(0)) / 2
    half = (points[:, :2].amax(0) - points[:, :2].amin(0)).max() * 0.62  # the hand is thicker than its points
    free = [*(middle - half).tolist(), *(1 - middle - half).tolist()]  # left, top, right, bottom
    side = max(free)
    if side < _ROOM:
        return None
    cells = min(_SIDE, int(side * _SIDE))
    edge = free.index(side)
    first = (slice(0, cells), slice(_SIDE - cells, _SIDE))[edge >= 2]
    part = pixels[:, :cells, first] if edge % 2 == 0 else pixels[:, first, :cells]
    room: Tensor = interpolate(part[None].float(), size=_SIDE, mode="bilinear")[0].byte()
    return room


def _drawn(generator: torch.Generator) -> Tensor:
    """Smooth or chequered colours with a little grain, (3, 128, 128)."""
    height, width, smooth = (int(torch.randint(low, 12, (), generator=generator)) for low in (2, 2, 0))
    contrast, light, grain = torch.rand(3, generator=generator).tolist()
    cells = torch.rand(1, 3, height, width, generator=generator) * contrast + light * 0.6
    pixels: Tensor = interpolate(cells, size=_SIDE, mode="bicubic" if smooth < 8 else "nearest")[0]
    pixels = pixels + torch.randn(1, _SIDE, _SIDE, generator=generator) * grain * 0.1
    return (pixels.clamp(0, 1) * 255).byte()


def _shares(pictures: Sequence[Picture], groups: Mapping[str, str]) -> NDArray[np.float64]:
    """How often each picture is shown, in relation: groups by the root of their bursts, and their letters alike.

    Bursts are what a group has to tell: a thousand near-copies of a frame tell no more than one.
    """
    letters = [picture for picture in pictures if picture.label in LETTERS]
    kinds = [(groups.get(picture.id, ""), picture.label) for picture in letters]
    pictures_of = Counter(kinds)
    bursts_of = Counter(group for group, _ in set(zip([group for group, _ in kinds], bursts(letters), strict=True)))
    shares = {p.id: bursts_of[kind[0]] ** 0.5 / pictures_of[kind] for p, kind in zip(letters, kinds, strict=True)}
    other = sum(shares.values()) * _NO_LETTER_SHARE / max(1, len(pictures) - len(letters))
    return np.array([shares.get(picture.id, other) for picture in pictures])


def _scene_loss(backgrounds: Tensor, squeezed: float, eye: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """How wrong one look at pictures of lessons is, each in a scene of its own, a share of them squeezed."""
    pixels, *rest = batch
    known = Hands(pixels.permute(0, 3, 1, 2).float() / 255, *rest)
    with pixels.device:  # where everything new is made
        # Points in bfloat16 would be off by a pixel.
        with torch.autocast(pixels.device.type, enabled=False):
            seen, far = scenes(known, backgrounds.to(pixels.device), _NO_LETTER, squeezed)
        return _loss(eye, seen, far)


def _loss(eye: nn.Module, seen: Hands, far: Tensor) -> Tensor:
    """How wrong one look at scenes is in all that it tells."""

    def practice(own: Tensor) -> Tensor:
        # Half of the hands are the teacher's, half what the network makes of them, which is never so good.
        theirs = torch.rand(_PRACTICE * len(own))[:, None, None] < 0.5
        known, seen_so = (normalised(points).repeat(_PRACTICE, 1, 1) for points in (seen.points, own))
        return turned(torch.where(theirs, known, seen_so))

    views = (seen.pixels * 255 - MEAN) / STD
    look: Look = eye(views.contiguous(memory_format=torch.channels_last), practice)
    weight = torch.where(far, _FAR_LETTERS, 1.0)
    letters = _mean(cross_entropy(look.letters, seen.letters, reduction="none", label_smoothing=_SMOOTHING), weight)
    box = (seen.points[:, :, :2].amax(1) - seen.points[:, :, :2].amin(1)).amax(1).clamp(0.1, 2)
    apart = (look.points - seen.points).abs() * torch.tensor([1.0, 1.0, 0.5])
    points = _mean(apart.mean((1, 2)) / box, seen.trust)
    present = binary_cross_entropy_with_logits(look.present, seen.shown)
    right = _mean(binary_cross_entropy_with_logits(look.right, seen.right, reduction="none"), seen.trust)
    practised = seen.letters.repeat(_PRACTICE)
    by_points = cross_entropy(look.by_points, practised, reduction="none", label_smoothing=_SMOOTHING)
    by_points = _mean(by_points, (weight * (seen.trust > 0)).repeat(_PRACTICE))
    middle, size = _box_loss(look, seen)
    return (
        letters
        + _POINTS * points
        + _HEATMAPS * _heatmap_loss(look, seen, box)
        + _PRESENT * present
        + _RIGHT * right
        + _BY_POINTS * by_points
        + _MIDDLE * middle
        + _SIZE * size
    )


def _box_loss(look: Look, seen: Hands) -> tuple[Tensor, Tensor]:
    """How wrong the middle of the hand's box is, as a divergence of distributions over cells, and its size there."""
    low, high = seen.points[:, :, :2].amin(1), seen.points[:, :, :2].amax(1)
    middle, side = (low + high) / 2, (high - low).amax(1).clamp(0.05, 3)
    cells = look.middles.shape[2]
    spread = torch.full_like(side, _MIDDLE_SPREAD / cells)
    wrong, target = _divergence(look.middles[:, None], middle[:, None], spread, 1.0)
    trust = seen.trust * ((middle > 0) & (middle < 1)).all(1)
    size = (target[:, 0] * (look.sizes.flatten(1) - (side * cells).log()[:, None]).abs()).sum(1)
    return _mean(wrong[:, 0], trust), _mean(size, trust)


def _heatmap_loss(look: Look, seen: Hands, box: Tensor) -> Tensor:
    """How far heatmaps are from small spots at the points (as Nibali et al., 2018, found to make their means exact)."""
    points = seen.points[:, :, :2]
    least = 0.6 * REACH / look.heatmaps.shape[2]  # narrower spots would be one cell, wherever in it the point is
    wrong, _ = _divergence(look.heatmaps, points, (_POINT_SPREAD * box).clamp(min=least), REACH)
    inside = (points - 0.5).abs().amax(2) < REACH / 2
    return _mean(wrong, inside * seen.trust[:, None])


def _divergence(maps: Tensor, places: Tensor, spread: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Divergence (N, maps) of maps (N, maps, cells, cells) from normal distributions about places, and these, flat."""
    lines = grid(maps.shape[2], reach, spread)
    x, y = ((lines - places[:, :, axis, None]).square() for axis in (0, 1))
    apart = (y[:, :, :, None] + x[:, :, None]) / (2 * spread.square())[:, None, None, None]
    target = (-apart).flatten(2).softmax(2)
    return kl_div(maps.flatten(2).log_softmax(2), target, reduction="none").sum(2), target


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
