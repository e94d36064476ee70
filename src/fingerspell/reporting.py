"""The report of a run: figures and one HTML page, from the files in the run's folder.

It reads numbers and computes none: what is wrong with a number is wrong where it was measured.

folder/  metrics.json  predictions.csv  report.txt  [recipe.toml]  [history.csv]  [timing.json]
      -> figures/{curves,calibration,confusion,per_letter,mistakes}.png  report.html
"""

from __future__ import annotations

import base64
import csv
import io
import json
import tomllib
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator

from fingerspell.alphabet import MOVING_LETTERS
from fingerspell.errors import RunError
from fingerspell.figures import (
    PredictionRow,
    calibration_figure,
    confusion_figure,
    curves_figure,
    matrix_figure,
    mistakes_figure,
    per_letter_figure,
    png,
    sheet_figure,
    strangers_figure,
    thumbnail,
    worst_mistakes,
)
from fingerspell.files import write_bytes, write_text
from fingerspell.remarks import look_alike

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from PIL import Image

    from fingerspell.figures import OpenPicture
    from fingerspell.inspection import Inspection

T = TypeVar("T")


# What the files of a run must hold; whatever else they hold is let pass.
class _Score(BaseModel):
    pictures: NonNegativeInt
    groups: NonNegativeInt
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    near_copies: float | None = None  # share of the pictures with a near-copy in training


class _Scores(BaseModel):
    letters: _Score
    static_letters: _Score | None = None


class _Condition(_Scores):
    difference: tuple[float, float] | None = None  # of the accuracy, to the same pictures as they are


class _Average(BaseModel):
    precision: float
    recall: float
    f1: float
    support: NonNegativeInt


class _LetterScore(_Average):
    letter: str
    recall_interval: tuple[float, float] | None = None


class _LookAlikes(BaseModel):
    letters: str
    pictures: NonNegativeInt
    right: float
    within: float


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


class _Others(BaseModel):
    pictures: NonNegativeInt
    named: NonNegativeInt


class _Calibration(BaseModel):
    temperature: float
    threshold: float
    risk: float
    error: float
    error_at_temperature_1: float
    named: float
    wrong_of_named: float
    others: dict[str, _Others]
    reliability: list[tuple[float, float, float]]
    risk_coverage: list[tuple[float, float, float]]


class _Metrics(BaseModel):
    measured_on: str
    model: str
    labels: Annotated[list[str], Field(min_length=1)]
    scores: _Scores
    conditions: dict[str, _Condition] = {}
    calibration: _Calibration | None = None
    per_letter: list[_LetterScore]
    macro_average: _Average
    weighted_average: _Average
    confused_pairs: list[_ConfusedPair]
    look_alikes: list[_LookAlikes] = []
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


class _Timing(BaseModel, extra="allow"):
    stages: dict[str, float]  # seconds
    __pydantic_extra__: dict[str, NonNegativeInt]  # counts of the work done, under any name


class _Run(NamedTuple):
    metrics: _Metrics
    predictions: list[PredictionRow]
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
    pictures = _thumbnails(run.predictions, mistakes, open_picture) if open_picture else {}
    f1 = {row.letter: row.f1 for row in metrics.per_letter if row.support}
    figures = {
        "curves": curves_figure(run.history) if run.history else None,
        "calibration": _calibration_figure(metrics.calibration) if metrics.calibration else None,
        "confusion": confusion_figure(metrics.labels, metrics.confusion),
        "per_letter": per_letter_figure(f1, metrics.scores.letters.macro_f1),
        "mistakes": mistakes_figure(mistakes, pictures) if pictures else None,
    }
    images = {name: png(figure) for name, figure in figures.items() if figure}
    for name, image in images.items():
        write_bytes(folder / "figures" / f"{name}.png", image)
    page = folder / "report.html"
    write_text(page, _render(run, mistakes, images))
    return page


def write_comparison(folder: Path, result: dict[str, Any]) -> None:
    """Write matrix.png and comparison.html from the content of ``comparison.json``."""
    image = png(matrix_figure(result["cells"], list(result["models"]), result["archives"]))
    write_bytes(folder / "matrix.png", image)
    cells = {(cell["model"], cell["archive"]): cell for cell in result["cells"]}
    page = _environment().get_template("comparison.html.j2")
    write_text(
        folder / "comparison.html",
        page.render(result=result, cells=cells, image=base64.b64encode(image).decode()),
    )


def write_strangers(folder: Path, result: dict[str, Any]) -> None:
    """Write strangers.png and strangers.html from the content of ``strangers.json``."""
    image = png(strangers_figure([row for top in result["groups"] for row in (top, *top["signers"])], result["mean"]))
    write_bytes(folder / "strangers.png", image)
    page = _environment().get_template("strangers.html.j2")
    write_text(folder / "strangers.html", page.render(result=result, image=base64.b64encode(image).decode()))


def _calibration_figure(found: _Calibration) -> Figure:
    return calibration_figure(found.reliability, found.risk_coverage, found.named, found.wrong_of_named)


def write_inspection(path: Path, inspection: Inspection, open_picture: OpenPicture) -> None:
    """Write what is known of a data set as a page, with contact sheets of the findings: it shows the user's pictures.

    ``open_picture`` gives the picture of an id as RGB uint8, (height, width, 3).
    """
    sheets = {
        finding.code: png(
            sheet_figure(
                [PurePosixPath(picture).name for picture in finding.pictures],
                [thumbnail(open_picture(picture)) for picture in finding.pictures],
            )
        )
        for finding in inspection.findings
        if finding.pictures
    }
    parts = sorted({part for counts in inspection.labels.values() for part in counts})
    page = _environment().get_template("inspection.html.j2")
    images = {code: base64.b64encode(sheet).decode() for code, sheet in sheets.items()}
    write_text(path, page.render(inspection=inspection, parts=parts, images=images))


def _thumbnails(
    predictions: Sequence[PredictionRow], mistakes: Sequence[PredictionRow], open_picture: OpenPicture
) -> dict[str, Image.Image]:
    """Small pictures of the mistakes by id, opened in the order of the archive, the quickest for a compressed tar."""
    wanted = {row.id for row in mistakes}
    return {row.id: thumbnail(open_picture(row.id)) for row in predictions if row.id in wanted}


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


def _predictions(text: str) -> list[PredictionRow]:
    rows = TypeAdapter(Annotated[list[PredictionRow], Field(min_length=1)])
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


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("fingerspell"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": "{:,}".format,
        "score": "{:.3f}".format,
        "interval": lambda interval: "[{:.3f}, {:.3f}]".format(*interval),
        "signed": lambda interval: "{:+.3f} to {:+.3f}".format(*interval),
        "duration": lambda seconds: str(timedelta(seconds=round(seconds))),
        "plain": partial(json.dumps, ensure_ascii=False, default=str),  # a recipe's values look alike in JSON
    }
    return environment


def _render(run: _Run, mistakes: Sequence[PredictionRow], images: dict[str, bytes]) -> str:
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            metrics=run.metrics,
            mistakes=mistakes,
            images={name: base64.b64encode(data).decode() for name, data in images.items()},
            look_alike=look_alike,
            moving=MOVING_LETTERS,
        )
    )
