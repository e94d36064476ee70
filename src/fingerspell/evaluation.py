"""What a model answers on labelled pictures, scored and written down."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerspell import metrics
from fingerspell.alphabet import LETTERS
from fingerspell.errors import UnreadableError
from fingerspell.files import csv_text, write_text
from fingerspell.images import CONDITIONS
from fingerspell.model import predictions
from fingerspell.progress import silent
from fingerspell.remarks import remarks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.images import View
    from fingerspell.model import Model, Probabilities
    from fingerspell.progress import Progress


CONDITION_PICTURES = 10  # of each letter: 260 pictures show a drop of a few points, and cost little beside the rest


@dataclass(frozen=True)
class Answers:
    """A model's probabilities on labelled pictures.

    Attributes
    ----------
    pictures : tuple of Picture
    labels : tuple of str
        Meaning of the columns.
    original : array (pictures, labels)
        On the pictures as they are.
    conditions : mapping of view to array (sample, labels)
        On the pictures of ``condition_sample`` under other conditions.
    """

    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]
    original: Probabilities
    conditions: Mapping[View, Probabilities]


def condition_sample(pictures: Sequence[Picture]) -> list[int]:
    """Rows of the pictures that are looked at under other conditions: a few of each letter, evenly spaced."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows[picture.label].append(row)
    spaced = (
        np.linspace(0, len(own) - 1, min(CONDITION_PICTURES, len(own))).round().astype(int) for own in rows.values()
    )
    return sorted(own[i] for own, chosen in zip(rows.values(), spaced, strict=True) for i in chosen)


def answer(model: Model, archive: Archive, pictures: Sequence[Picture], *, on_progress: Progress = silent) -> Answers:
    """Look at pictures of an archive, and at some of them under other conditions, with a loaded model.

    Raises
    ------
    UnreadableError
        If a picture that the scan could read cannot be read any more.
    """
    sample = [pictures[row] for row in condition_sample(pictures)]
    total, done = len(pictures) + len(sample) * len(CONDITIONS), 0

    def look(some: Sequence[Picture], view: View) -> Probabilities:
        nonlocal done
        rows = []
        for _, row in model.stream(_files(archive, some), _refuse, view):
            rows.append(row)
            done += 1
            on_progress("Recognising", done, total)
        return np.stack(rows)

    original = look(pictures, "original")
    return Answers(tuple(pictures), model.card.labels, original, {view: look(sample, view) for view in CONDITIONS})


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
    labels = [letter for letter in LETTERS if letter in answers.labels or letter in true]
    summary = facts | {"scores": scores, "conditions": _conditions(answers)}
    summary |= metrics.per_letter(true, predicted, labels)
    return summary | {"remarks": [*notes, *remarks(summary, history)]}


def write(folder: Path, answers: Answers, summary: dict[str, Any]) -> None:
    """Write metrics.json, predictions.csv and report.txt."""
    true = np.array([picture.label for picture in answers.pictures])
    write_text(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "predictions.csv", _predictions_csv(answers))
    text = metrics.text_report(true, _best(answers.original, answers.labels), summary["labels"])
    write_text(folder / "report.txt", text + "\n" + _closing_lines(summary))


def _conditions(answers: Answers) -> dict[str, Any]:
    """Scores of the sample as it is and under each condition, with the paired difference in accuracy."""
    sample = condition_sample(answers.pictures)
    true = np.array([answers.pictures[row].label for row in sample])
    original = _best(answers.original[sample], answers.labels)
    scores: dict[str, Any] = {"original": metrics.scores(true, original)}
    for view, probabilities in answers.conditions.items():
        predicted = _best(probabilities, answers.labels)
        difference = metrics.paired_difference(predicted == true, original == true)
        scores[view] = metrics.scores(true, predicted) | {"difference": list(difference)}
    return scores


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
    names = {"letters": "all letters", "static_letters": "24 static letters"}
    lines = [f"Measured on {summary['measured_on']}.", "accuracy, with its 95% interval:"]
    lines += [_line(names[key], score) for key, score in summary["scores"].items()]
    lines.append("all letters, on some of the pictures, as they are and under other conditions:")
    lines += [_line(view, scores["letters"]) for view, scores in summary["conditions"].items()]
    absent = [row["letter"] for row in summary["per_letter"] if not row["support"]]
    if absent:
        macro_f1 = summary["macro_average"]["f1"]
        lines.append(f"The table's macro avg counts {', '.join(absent)}, without test pictures, as 0.")
        lines.append(f"Over the letters that have some, macro F1 is {macro_f1:.3f}.")
    return "\n".join(lines) + "\n"


def _line(name: str, score: dict[str, Any]) -> str:
    low, high = score["accuracy_interval"]
    return f"{name:>20}  {score['accuracy']:.3f} [{low:.3f}, {high:.3f}]  n={score['pictures']}"
