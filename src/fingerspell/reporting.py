"""The report of a run: figures and one HTML page, from the files in the run's folder.

It reads numbers and computes none: what is wrong with a number is wrong where it was measured.

folder/  metrics.json  predictions.csv  report.txt  [recipe.toml]  [history.csv]  [timing.json]
      -> figures/{curves,confusion,per_letter,mistakes}.png  report.html
"""

from __future__ import annotations

import base64
import csv
import io
import json
import tomllib
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator

from fingerspell.alphabet import MOVING_LETTERS
from fingerspell.errors import RunError
from fingerspell.files import write_bytes, write_text
from fingerspell.remarks import History, chosen, look_alike

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    OpenPicture = Callable[[str], NDArray[np.uint8]]

T = TypeVar("T")

# Two colours of Okabe and Ito's palette, which colour-blind readers tell apart (jfly.uni-koeln.de/color).
BLUE, ORANGE = "#0072b2", "#d55e00"
DPI, PHOTO_DPI = 150, 100  # sharp on a telephone and in print; photographs would make most of the page's size
MISTAKES, MISTAKES_PER_PAIR, SHEET_COLUMNS = 24, 3, 6  # neighbouring frames fail alike: three of a kind show enough
THUMBNAIL = 200  # pixels; more would not be seen, and matplotlib takes seconds to shrink one photograph


# What the files of a run must hold; whatever else they hold is let pass.
class _Score(BaseModel):
    pictures: NonNegativeInt
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]


class _Scores(BaseModel):
    letters: _Score
    static_letters: _Score | None = None
    letters_mirrored: _Score | None = None
    static_letters_mirrored: _Score | None = None


class _Average(BaseModel):
    precision: float
    recall: float
    f1: float
    support: NonNegativeInt


class _LetterScore(_Average):
    letter: str


class _ConfusedPair(BaseModel):
    letter: str
    taken_for: str
    pictures: NonNegativeInt
    share: float


class _Split(BaseModel):
    protocol: str
    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt
    reference_leak: bool = False
    duplicates_dropped: NonNegativeInt = 0
    notes: list[str] = []


class _Metrics(BaseModel):
    measured_on: str
    model: str
    labels: Annotated[list[str], Field(min_length=1)]
    scores: _Scores
    per_letter: list[_LetterScore]
    macro_average: _Average
    weighted_average: _Average
    confused_pairs: list[_ConfusedPair]
    confusion: list[list[NonNegativeInt]]
    split: _Split | None = None  # none for an evaluation on another data set
    unreadable: NonNegativeInt = 0
    remarks: list[str] = []

    @model_validator(mode="after")
    def _square(self) -> _Metrics:
        size = len(self.labels)
        if [len(row) for row in self.confusion] != [size] * size:
            raise ValueError(f"confusion must have {size} rows and columns, one a label")
        return self


class Prediction(BaseModel):
    """One row of ``predictions.csv``."""

    id: str
    label: str
    predicted: str
    probability: float


class _Timing(BaseModel, extra="allow"):
    stages: dict[str, float]  # seconds
    __pydantic_extra__: dict[str, NonNegativeInt]  # counts of the work done, under any name


class _Run(NamedTuple):
    metrics: _Metrics
    predictions: list[Prediction]
    report_text: str
    recipe_text: str | None
    recipe: dict[str, Any] | None
    history: list[dict[str, float]] | None
    timing: _Timing | None


def write_report(folder: Path, open_picture: OpenPicture | None = None) -> Path:
    """Write a run's figures and its page; the same files give the same page, byte for byte.

    Parameters
    ----------
    folder : Path
        The run's folder.
    open_picture : callable, optional
        Gives the picture of an id in ``predictions.csv`` as RGB uint8, (height, width, 3), of any size. Without it
        the page has no sheet of mistakes.

    Returns
    -------
    Path
        ``report.html``: one file that needs no other, no network and no script.

    Raises
    ------
    RunError
        If a file of the run is missing or does not hold what it should.
    """
    run = _read_run(folder)
    metrics, mistakes = run.metrics, worst_mistakes(run.predictions)
    f1 = {row.letter: row.f1 for row in metrics.per_letter if row.support}
    figures = {
        "curves": curves_figure(run.history) if run.history else None,
        "confusion": confusion_figure(metrics.labels, metrics.confusion),
        "per_letter": per_letter_figure(f1, metrics.scores.letters.macro_f1),
        "mistakes": mistakes_figure(mistakes, open_picture) if mistakes and open_picture else None,
    }
    images = {name: png(figure) for name, figure in figures.items() if figure}
    for name, image in images.items():
        write_bytes(folder / "figures" / f"{name}.png", image)
    page = folder / "report.html"
    write_text(page, _render(run, mistakes, images))
    return page


def _read_run(folder: Path) -> _Run:
    return _Run(
        metrics=_read(folder / "metrics.json", _Metrics.model_validate_json),
        predictions=_read(folder / "predictions.csv", _predictions),
        report_text=_read(folder / "report.txt", str),
        recipe_text=_read_if_there(folder / "recipe.toml", str),
        recipe=_read_if_there(folder / "recipe.toml", tomllib.loads),
        history=_read_if_there(folder / "history.csv", _history),
        timing=_read_if_there(folder / "timing.json", _Timing.model_validate_json),
    )


def _read_if_there(path: Path, parse: Callable[[str], T]) -> T | None:
    return _read(path, parse) if path.is_file() else None


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{path} is missing: a report needs metrics.json, predictions.csv and report.txt. "
            "Name the folder of a finished run, or train or evaluate first."
        ) from error
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} does not hold what a report needs: {_reason(error)}. Run the stage again.") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}, found {str(first['input'])[:60]!r}{more}"


def _predictions(text: str) -> list[Prediction]:
    rows = TypeAdapter(Annotated[list[Prediction], Field(min_length=1)])
    return rows.validate_python(list(csv.DictReader(io.StringIO(text))))


def _history(text: str) -> list[dict[str, float]]:
    rows = TypeAdapter(list[dict[str, float]]).validate_python(list(csv.DictReader(io.StringIO(text))))
    found = set(rows[0]) if rows else set()
    curves = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}
    if not curves <= found or not {"epoch", "strength"} & found:
        raise ValueError(
            f"columns epoch or strength, {', '.join(sorted(curves))} are needed in one row or more, "
            f"found {', '.join(sorted(found)) or 'no row'}"
        )
    return rows


def worst_mistakes(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Wrong predictions with the highest probability first, few of any one letter and answer."""
    wrong = [row for row in predictions if row.label != row.predicted]
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in sorted(wrong, key=lambda row: (-row.probability, row.id)):
        pair = (row.label, row.predicted)
        seen[pair] += 1
        if seen[pair] <= MISTAKES_PER_PAIR:
            kept.append(row)
    return kept[:MISTAKES]


def curves_figure(history: History) -> Figure:
    """Loss and accuracy of training and validation, by epoch or by strength."""
    step = "strength" if "strength" in history[0] else "epoch"
    rows = sorted(history, key=lambda row: row[step])
    figure = Figure(figsize=(9, 3.6), dpi=DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_curves(axes, rows, step, measure)
        if step == "strength":
            axes.set_xscale("log")
            axes.set_xlabel("strength C (larger: less regularised)")
            axes.axvline(chosen(rows)[step], color="0.4", linestyle=":", label="chosen")
        else:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(frameon=False)
    return figure


def _draw_curves(axes: Axes, rows: History, step: str, measure: str) -> None:
    for part, colour, marker, line in (("train", BLUE, "o", "-"), ("validation", ORANGE, "s", "--")):
        values = [row[f"{part}_{measure}"] for row in rows]
        axes.plot([row[step] for row in rows], values, color=colour, marker=marker, linestyle=line, label=part)
    axes.set_title(measure.capitalize(), loc="left")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def confusion_figure(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Figure:
    """Heat map of the confusion matrix: shade is the share of a letter's pictures, figures are counts."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a letter without pictures is a blank row
    side = max(5, 1.8 + 0.31 * len(labels))  # inches; a cell holds three figures
    figure = Figure(figsize=(side + 0.7, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(heat, label="share of the letter's pictures", fraction=0.04, pad=0.02, aspect=40)
    for row, column in np.argwhere(counts):
        count, colour = counts[row, column], "white" if shares[row, column] > 0.5 else "black"
        size = 8 if count < 1000 else 6
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size, in_layout=False)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0, labeltop=True)
    axes.set(xlabel="predicted letter", ylabel="true letter")
    return figure


def per_letter_figure(f1: Mapping[str, float], mean: float) -> Figure:
    """F1 of each letter as bars; the letters that move are hatched."""
    figure = Figure(figsize=(9, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(f1), list(f1.values()), color=BLUE, width=0.75)
    moving = [bar for letter, bar in zip(f1, bars, strict=True) if letter in MOVING_LETTERS]
    for bar in moving:
        bar.set(facecolor="white", edgecolor=ORANGE, hatch="////", label="moves: a still shows its start only")
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps the line of the mean off the numbers
    axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1.5, bbox=ground, zorder=3)
    line = axes.axhline(mean, color="0.3", linestyle="--", linewidth=1, label=f"mean {mean:.3f}")
    axes.legend(handles=[line, *moving[:1]], frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(ylim=(0, 1.08), ylabel="F1", xmargin=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def mistakes_figure(mistakes: Sequence[Prediction], open_picture: OpenPicture) -> Figure:
    """Sheet of wrongly recognised pictures, each with its letter, the answer and the answer's probability."""
    columns = min(SHEET_COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), dpi=PHOTO_DPI, layout="constrained")
    for place, mistake in enumerate(mistakes, 1):
        picture = Image.fromarray(open_picture(mistake.id))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        axes = figure.add_subplot(rows, columns, place)
        axes.set_axis_off()
        axes.imshow(picture)
        axes.set_anchor("N")  # titles of one row stay on one line, whatever the pictures' shapes
        axes.set_title(f"{mistake.label} → {mistake.predicted}  {mistake.probability:.2f}", fontsize=10)
    return figure


def png(figure: Figure) -> bytes:
    """Figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _render(run: _Run, mistakes: Sequence[Prediction], images: dict[str, bytes]) -> str:
    environment = Environment(loader=PackageLoader("fingerspell"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": "{:,}".format,
        "score": "{:.3f}".format,
        "interval": lambda interval: "[{:.3f}, {:.3f}]".format(*interval),
        "duration": lambda seconds: str(timedelta(seconds=round(seconds))),
        "plain": partial(json.dumps, ensure_ascii=False, default=str),  # a recipe's values look alike in JSON
    }
    return environment.get_template("report.html.j2").render(
        run=run,
        metrics=run.metrics,
        mistakes=mistakes,
        images={name: base64.b64encode(data).decode() for name, data in images.items()},
        look_alike=look_alike,
        moving=MOVING_LETTERS,
    )
