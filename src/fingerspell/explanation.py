"""Does a model look at the hand or at the wall? Occlusion maps (Zeiler and Fergus, 2014).

A patch of the picture's mean colour is laid over one place after another; where the probability of the answer falls,
there was evidence for it.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerspell import hands
from fingerspell.errors import DatasetError, ModelError, UnreadableError
from fingerspell.figures import SHEET, evidence_figure, png
from fingerspell.files import check_folder, write_bytes, write_text
from fingerspell.progress import silent
from fingerspell.splits import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.images import Pixels
    from fingerspell.model import Model, Seen
    from fingerspell.progress import Progress

    Evidence = NDArray[np.float32]

_STEPS = 12  # places along a side
_PATCH = 0.25  # side of the patch, of the picture's: about a finger and its neighbour
_BATCH = 32


@dataclass(frozen=True)
class Box:
    """Where a hand is: shares of a picture's width and height, from the upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)

    def in_square(self, across: float, down: float) -> Box:
        """The same box in shares of a square, in whose middle the picture takes these shares of the sides."""
        left, right = (0.5 + (x - 0.5) * across for x in (self.left, self.right))
        top, bottom = (0.5 + (y - 0.5) * down for y in (self.top, self.bottom))
        return Box(left, top, right, bottom)


@dataclass(frozen=True)
class Explanation:
    """What an answer rests on.

    Attributes
    ----------
    letter : str
        The answer.
    probability : float
    evidence : array (size, size)
        Mean fall of that probability over the patches that cover a pixel, where it falls; 0 elsewhere.
    """

    letter: str
    probability: float
    evidence: Evidence

    def share_inside(self, box: Box) -> float | None:
        """Share of the evidence inside a box; None if nothing that was covered mattered."""
        total = float(self.evidence.sum())
        size = len(self.evidence)
        rows = slice(round(box.top * size), round(box.bottom * size))
        columns = slice(round(box.left * size), round(box.right * size))
        return float(self.evidence[rows, columns].sum()) / total if total else None


def explain(model: Model, seen: Seen) -> Explanation:
    """Occlusion map of a model's answer on a prepared picture; the points of its hand, if it reads them, stay.

    Of a model that looks at a picture in several shapes it is its answer to the first alone, the picture as it is: what
    is covered in one lies elsewhere in another.

    Raises
    ------
    ModelError
        If the model sees no pixels.
    """
    if "pictures" not in seen:
        raise ModelError(
            f"{model.card.name}: this model reads the points of the hand alone, expected one that sees pixels. "
            "There is nothing to cover; give another model."
        )
    if model.card.looks > 1:
        row = seen["hands"].copy()
        row[hands.LOOK + hands.FOUND :: hands.LOOK] = 0  # as if the others had missed the hand
        seen = seen | {"hands": row}
    pixels = _as_it_is(seen)
    size = len(pixels)
    side = max(1, round(_PATCH * size))
    places = np.linspace(0, size - side, _STEPS).round().astype(int)
    corners = [(top, left) for top in places for left in places]
    before = model.probabilities([seen])[0]
    answer = int(before.argmax())
    colour = pixels.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    falls = np.zeros((size, size), np.float32)
    covers = np.zeros((size, size), np.float32)
    for start in range(0, len(corners), _BATCH):
        some = corners[start : start + _BATCH]
        covered = [seen["pictures"].copy() for _ in some]
        for picture, (top, left) in zip(covered, some, strict=True):
            picture[..., top : top + side, left : left + side, :] = colour
        after = model.probabilities([seen | {"pictures": picture} for picture in covered])[:, answer]
        for fall, (top, left) in zip(before[answer] - after, some, strict=True):
            falls[top : top + side, left : left + side] += max(0.0, float(fall))
            covers[top : top + side, left : left + side] += 1
    return Explanation(model.card.labels[answer], float(before[answer]), falls / covers)


def read_boxes(data: bytes, ids: Sequence[str]) -> dict[str, Box]:
    """Hand boxes by picture from a csv file with the columns path, left, top, right, bottom (shares of the sides).

    Other columns, and rows of pictures without a hand, whose box is empty, do not matter.

    Raises
    ------
    DatasetError
        If the file is no such table, a number is no share, or none of the pictures has a box.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True))
        boxes = {
            str(row["path"]): Box(*(float(row[name]) for name in ("left", "top", "right", "bottom")))
            for row in rows
            if row["left"] != ""
        }
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"the boxes file is no csv file with the columns path, left, top, right, bottom ({error!r}). "
            "Expected one row for each picture, with shares of its width and height."
        ) from error
    for path, box in boxes.items():
        if not (0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1):
            raise DatasetError(f"the boxes file: {path} has {box}; expected 0 <= left < right <= 1, and so downwards.")
    found = {}
    for picture in ids:
        known = [ending for ending in _endings(picture) if ending in boxes]
        if known:
            found[picture] = boxes[known[0]]
    if not found:
        raise DatasetError(
            f"the boxes file names none of the {len(ids)} pictures (it has {', '.join(list(boxes)[:2]) or 'no rows'}; "
            f"the pictures are {', '.join(ids[:2])}). Paths must be written as in the archive."
        )
    return found


def explain_files(
    model: Model,
    files: Callable[[], Iterator[tuple[str, bytes]]],
    out: Path,
    on_unreadable: Callable[[str, str], None],
    *,
    boxes: Path | None = None,
    count: int = 24,
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Explain some pictures, evenly spaced, and write explanation.json and a sheet of the maps.

    Parameters
    ----------
    model
        Loaded model.
    files
        Gives name and bytes of all pictures, each time it is called.
    out
        Folder of the results.
    on_unreadable
        Called with name and reason for each picture that cannot be decoded; the others go on.
    boxes
        Csv file that says where the hands are (``read_boxes``).
    count
        Pictures at most.
    on_progress
        Told of every picture.

    Returns
    -------
    dict
        ``pictures`` (each with its answer and the shares below) and, with boxes, the medians of ``inside``, the share
        of the evidence inside the hand's box, and of ``area``, the box's share of what the model sees.

    Raises
    ------
    DatasetError
        If no picture can be read, or the boxes are not as ``read_boxes`` wants them.
    ModelError
        If the model sees no pixels, or, with boxes, the box of the hand alone.
    RunError
        If ``out`` holds something else, or cannot be written.
    """
    if boxes and model.card.crop:
        raise ModelError(
            f"{model.card.name}: this model sees the box of the hand alone (--crop hand), expected one that sees whole "
            "pictures. What it rests on is inside the box in any case; leave --boxes out."
        )
    names = list(dict.fromkeys(name for name, _ in files()))
    if not names:
        raise DatasetError("found no picture to explain. Name pictures, folders or archives that hold some.")
    if boxes and (not boxes.exists() or boxes.is_dir()):
        raise DatasetError(f"{boxes}: there is no such file of boxes. Check --boxes.")
    chosen = set(evenly_spaced(names, count))
    known = read_boxes(boxes.read_bytes(), sorted(chosen)) if boxes else {}
    check_folder(out, result="an explanation", overwrite=True)
    rows: list[dict[str, Any]] = []
    maps: list[tuple[Pixels, Evidence]] = []
    left = set(chosen)
    for name, data in files():
        if name not in left:
            continue
        left.remove(name)
        try:
            seen = model.prepare(data)
        except UnreadableError as error:
            on_unreadable(name, str(error))
        else:
            found = explain(model, seen)
            rows.append(_row(name, found, seen, known.get(name)))
            maps.append((_as_it_is(seen), found.evidence))
        on_progress("Covering pictures", len(chosen) - len(left), len(chosen))
    if not rows:
        raise DatasetError("none of these pictures can be read. Name pictures, folders or archives that hold some.")
    result: dict[str, Any] = {"model": model.card.name, "pictures": rows}
    for key in ("inside", "area"):
        values = [row[key] for row in rows if row.get(key) is not None]
        result |= {key: float(np.median(values))} if values else {}
    write_text(out / "explanation.json", json.dumps(result, indent=1) + "\n")
    titles = [f"{row['letter']}  {row['probability']:.2f}" for row in rows]
    write_bytes(out / "explanation.png", png(evidence_figure(titles[:SHEET], maps[:SHEET])))
    return result


def _row(name: str, found: Explanation, seen: Seen, box: Box | None) -> dict[str, Any]:
    """What is written of a picture; with the hand's box, how much of the evidence is in it."""
    row: dict[str, Any] = {"id": name, "letter": found.letter, "probability": found.probability}
    if box is None:
        return row
    box = box.in_square(*seen["frame"]) if "frame" in seen else box
    return row | {"inside": found.share_inside(box), "area": box.area}


def _as_it_is(seen: Seen) -> Pixels:
    """What a model sees (size, size, 3) of a picture in its own shape."""
    pictures: Pixels = seen["pictures"]
    return pictures if pictures.ndim == 3 else pictures[0]


def _endings(path: str) -> list[str]:
    """Path, and what is left of it without its first folders, the longest first."""
    steps = path.split("/")
    return ["/".join(steps[start:]) for start in range(len(steps))]
