"""From rounded cones to the surface that a viewer sees: height, normal and kind of skin at every pixel.

The view is along ``-z``: larger ``z`` is nearer. Pixel axes: ``x`` right, ``y`` down, all lengths in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fingerspell.rendering.body import Body

FloatMap = NDArray[np.float32]
_FAR = np.float32(-1e6)
_LAYERS = 7


@dataclass(frozen=True)
class Surface:
    """What a viewer sees, on a grid of h by w pixels.

    Attributes
    ----------
    height
        Shape (h, w): distance towards the viewer; meaningless off the hand.
    normal
        Shape (3, h, w): unit normals.
    back
        Shape (h, w): 1 where the normal points out of the back of the hand, -1 out of the palm's side.
    nail
        Shape (h, w): 1 on a fingernail, 0 elsewhere.
    fold
        Shape (h, w): 1 in a fold of the skin at a finger's joint, 0 elsewhere.
    part
        Shape (h, w): the part of the body seen, -1 where none is.
    """

    height: FloatMap
    normal: FloatMap
    back: FloatMap
    nail: FloatMap
    fold: FloatMap
    part: NDArray[np.int8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Shape (h, w): where the body is."""
        return self.part >= 0


@dataclass(frozen=True)
class _Patch:
    """What one cone shows on its window of the grid: heights (``_FAR`` where it misses) and layers.

    The layers are what is blended between cones: 1, the normal's three shares, back, nail, fold.
    """

    window: tuple[slice, slice]
    height: FloatMap
    layers: FloatMap


def rasterise(body: Body, shape: tuple[int, int], blend: float) -> Surface:
    """Find the surface of a body on a grid.

    Parameters
    ----------
    body
        Cones in pixel units.
    shape
        Height and breadth of the grid.
    blend
        Within a part, two cones blend where their heights differ by less than about this many pixels.
    """
    height = np.full(shape, _FAR)
    part_seen = np.full(shape, -1, np.int8)
    layers = np.zeros((_LAYERS, *shape), np.float32)
    for part in np.unique(body.part).tolist():
        found = (_patch(body, cone, shape) for cone in np.flatnonzero(body.part == part).tolist())
        patches = [patch for patch in found if patch is not None]
        if patches:
            window = _hull([patch.window for patch in patches])
            top, sums = _union(patches, window, blend)
            rows, columns = np.nonzero(top > height[window])  # a row of pixels: a part is slim in its window
            mean = sums[:, rows, columns]
            blended = top[rows, columns] + np.float32(blend) * np.log(mean[0])
            rows, columns = rows + window[0].start, columns + window[1].start
            part_seen[rows, columns] = part
            height[rows, columns] = blended
            mean[1:4] /= np.maximum(np.sqrt(mean[1] ** 2 + mean[2] ** 2 + mean[3] ** 2), 1e-6)
            mean[4:] /= mean[0]
            layers[:, rows, columns] = mean
    return Surface(height, layers[1:4], layers[4], layers[5], layers[6], part_seen)


def _union(patches: list[_Patch], window: tuple[slice, slice], blend: float) -> tuple[FloatMap, FloatMap]:
    """Smooth union of cones: the largest height, and the layers summed with weights that fall off below it.

    The sum of the weights makes the blended height, a log-sum-exp: ``top + blend * log(sums[0])``.
    """
    top = np.full(_extent(window), _FAR)
    for patch in patches:
        view = top[_within(patch.window, window)]
        np.maximum(view, patch.height, out=view)
    sums = np.zeros((_LAYERS, *top.shape), np.float32)
    for patch in patches:
        inner = _within(patch.window, window)
        # A miss beside a hit lies so far below that its weight is 0; a miss of all is never looked at.
        weight = np.exp((patch.height - top[inner]) * np.float32(1 / blend))
        view = sums[:, *inner]
        view += weight * patch.layers
    return top, sums


def _patch(body: Body, cone: int, shape: tuple[int, int]) -> _Patch | None:
    """Cut the cone's window out of the grid and look there; None if the cone lies outside."""
    ends, radii = body.ends[cone], body.radii[cone]
    limit = shape[::-1]
    low = np.floor((ends[:, :2] - radii[:, None]).min(0)).clip(0, limit).astype(int).tolist()
    high = np.ceil((ends[:, :2] + radii[:, None]).max(0)).clip(0, limit).astype(int).tolist()
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    x = np.arange(low[0], high[0], dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(low[1], high[1], dtype=np.float32)[:, None] + np.float32(0.5)
    along, height, normal = _intersect(ends, radii, x, y)
    layers = np.zeros((_LAYERS, *height.shape), np.float32)
    layers[0] = 1
    layers[1:4] = normal
    back = np.tensordot(body.dorsal[cone].astype(np.float32), normal, 1)
    layers[4] = back
    if body.nail[cone]:
        # A nail covers the back of the last bone from its middle on, 0.6 of the finger's breadth: asin 0.6 = 37 deg
        # to each side, where the normal's share along the back is cos 37 deg = 0.8.
        layers[5] = np.minimum(np.maximum((back - 0.8) * 12, 0), 1) * (along > 0.5)
    if body.jointed[cone]:
        # One fold across the inner side, three fainter ones across the back, about a tenth of the finger thick.
        away = along * np.float32(np.linalg.norm(ends[1] - ends[0]) / radii[0])
        inner = np.exp(-np.square(away / np.float32(0.12))) * np.clip(-2 * back, 0, 1)
        outer = np.exp(-np.square(away / np.float32(0.5))) * np.cos(away * np.float32(18)) * np.clip(back, 0, 1)
        layers[6] = inner + np.float32(0.4) * np.maximum(outer, 0)
    return _Patch((slice(low[1], high[1]), slice(low[0], high[0])), height, layers)


def _intersect(
    ends: NDArray[np.float64], radii: NDArray[np.float64], x: FloatMap, y: FloatMap
) -> tuple[FloatMap, FloatMap, FloatMap]:
    """Share along the cone where rays along z meet it, their height there (``_FAR`` for a miss), and the normal.

    A ball at the share t of the way reaches the height ``h(t) = z(t) + sqrt(q(t))`` over a pixel, with the quadratic
    ``q(t) = r(t)^2 - |pixel - centre(t)|^2 = a t^2 + 2 b t + c``. The cone's surface is the maximum of h over t in
    [0, 1]: setting the derivative to zero gives ``a t + b = -dz sqrt((b^2 - a c) / (dz^2 - a))``.
    """
    (x0, y0, z0), (dx, dy, dz) = ends[0].tolist(), (ends[1] - ends[0]).tolist()
    r0, dr = float(radii[0]), float(radii[1] - radii[0])
    a = dr * dr - dx * dx - dy * dy
    if abs(a) < 1e-3:  # seen end on: any small number will do, for t is clipped
        a = -1e-3
    px, py = x - np.float32(x0), y - np.float32(y0)
    b = r0 * dr + px * dx + py * dy
    c = r0 * r0 - px * px - py * py
    steep = max(dz * dz - a, 1e-6)
    root = np.sqrt(np.maximum(b * b - a * c, 0) * (1 / steep))
    along = np.minimum(np.maximum((root * -dz - b) * (1 / a), 0), 1)
    radius = r0 + along * dr
    nx, ny = px - along * dx, py - along * dy
    square = radius * radius - nx * nx - ny * ny
    reach = np.sqrt(np.maximum(square, 0))
    height = np.where(square > 0, z0 + along * dz + reach, _FAR)
    return along, height, np.stack((nx, ny, reach)) / radius


def _hull(windows: list[tuple[slice, slice]]) -> tuple[slice, slice]:
    """Smallest window around all."""
    rows, columns = zip(*windows, strict=True)
    return (
        slice(min(row.start for row in rows), max(row.stop for row in rows)),
        slice(min(column.start for column in columns), max(column.stop for column in columns)),
    )


def _extent(window: tuple[slice, slice]) -> tuple[int, int]:
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def _within(inner: tuple[slice, slice], outer: tuple[slice, slice]) -> tuple[slice, slice]:
    """Inner window counted from the outer one's corner."""
    row, column = outer[0].start, outer[1].start
    return (
        slice(inner[0].start - row, inner[0].stop - row),
        slice(inner[1].start - column, inner[1].stop - column),
    )
