"""What a model answers on labelled pictures, scored and written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerspell import metrics
from fingerspell.alphabet import LETTERS
from fingerspell.errors import UnreadableError
from fingerspell.files import csv_text, write_text
from fingerspell.images import VIEWS
from fingerspell.model import predictions
from fingerspell.progress import silent
from fingerspell.remarks import remarks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.model import Model, Probabilities
    from fingerspell.progress import Progress


@dataclass(frozen=True)
class Answers:
    """A model's probabilities on labelled pictures.

    Attributes
    ----------
    pictures : tuple of Picture
    labels : tuple of str
        Meaning of the columns.
    original, mirrored : array (pictures, labels)
        On the pictures as they are, and on their mirror images (None if nobody looked).
    """

    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]
    original: Probabilities
    mirrored: Probabilities | None = None


def answer(model: Model, archive: Archive, pictures: Sequence[Picture], *, on_progress: Progress = silent) -> Answers:
    """Look at pictures of an archive, and at their mirror images, with a loaded model.

    Raises
    ------
    UnreadableError
        If a picture that the scan could read cannot be read any more.
    """
    views = {}
    for number, view in enumerate(VIEWS):
        rows = []
        for _, row in model.stream(_files(archive, pictures), _refuse, view):
            rows.append(row)
            on_progress("Recognising", number * len(pictures) + len(rows), len(VIEWS) * len(pictures))
        views[view] = np.stack(rows)
    return Answers(tuple(pictures), model.card.labels, **views)


def summarise(
    answers: Answers, notes: Sequence[str], history: list[dict[str, float]] | None = None, **facts: Any
) -> dict[str, Any]:
    """Everything that ``metrics.json`` holds: scores, letters, confusions, remarks.

    ``notes`` about the data come before the remarks; ``history`` is the training's; ``facts`` (model, measured_on,
    split, unreadable) pass through.
    """
    true = np.array([picture.label for picture in answers.pictures])
    predicted = _best(answers.original, answers.labels)
    scores = metrics.scores(true, predicted)
    if answers.mirrored is not None:
        scores |= metrics.scores(true, _best(answers.mirrored, answers.labels), "_mirrored")
    labels = [letter for letter in LETTERS if letter in answers.labels or letter in true]
    summary = facts | {"scores": scores} | metrics.per_letter(true, predicted, labels)
    return summary | {"remarks": [*notes, *remarks(summary, history)]}


def write(folder: Path, answers: Answers, summary: dict[str, Any]) -> None:
    """Write metrics.json, predictions.csv and report.txt."""
    true = np.array([picture.label for picture in answers.pictures])
    write_text(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "predictions.csv", _predictions_csv(answers))
    text = metrics.text_report(true, _best(answers.original, answers.labels), summary["labels"])
    write_text(folder / "report.txt", text + "\n" + _closing_lines(summary))


def _files(archive: Archive, pictures: Sequence[Picture]) -> Iterator[tuple[str, bytes]]:
    return ((picture.id, archive.read(picture.id)) for picture in pictures)


def _refuse(name: str, reason: str) -> None:
    raise UnreadableError(f"{name}: {reason}, although the scan could read it. Has the archive changed? Start again.")


def _best(probabilities: Probabilities, labels: Sequence[str]) -> metrics.Labels:
    best: metrics.Labels = np.array(labels)[probabilities.argmax(axis=1)]
    return best


def _predictions_csv(answers: Answers) -> str:
    rows = predictions([p.id for p in answers.pictures], answers.original, answers.labels)
    return csv_text(
        ["id", "label", "predicted", "probability", "runner_up", "runner_up_probability"],
        (
            [row.id, p.label, row.letter, f"{row.probability:.6f}", row.runner_up, f"{row.runner_up_probability:.6f}"]
            for p, row in zip(answers.pictures, rows, strict=True)
        ),
    )


def _closing_lines(summary: dict[str, Any]) -> str:
    """Scores on 26 and on 24 letters, with their intervals, below the table."""
    names = {
        "letters": "all letters",
        "static_letters": "24 static letters",
        "letters_mirrored": "all letters, mirrored pictures",
        "static_letters_mirrored": "24 static letters, mirrored pictures",
    }
    lines = [f"Measured on {summary['measured_on']}.", "accuracy, with its 95% interval:"]
    for key, score in summary["scores"].items():
        low, high = score["accuracy_interval"]
        lines.append(f"{names[key]:>38}  {score['accuracy']:.3f} [{low:.3f}, {high:.3f}]  n={score['pictures']}")
    absent = [row["letter"] for row in summary["per_letter"] if not row["support"]]
    if absent:
        macro_f1 = summary["macro_average"]["f1"]
        lines.append(f"The table's macro avg counts {', '.join(absent)}, without test pictures, as 0.")
        lines.append(f"Over the letters that have some, macro F1 is {macro_f1:.3f}.")
    return "\n".join(lines) + "\n"
