"""What a model answers on labelled pictures, scored and written down."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerspell import calibration, metrics
from fingerspell.alphabet import LETTERS, NON_LETTERS, STATIC_LETTERS
from fingerspell.errors import DAMAGE, RunError, UnreadableError
from fingerspell.files import csv_text, write_bytes, write_text
from fingerspell.images import CONDITIONS
from fingerspell.model import predictions
from fingerspell.neighbours import bursts
from fingerspell.progress import silent
from fingerspell.remarks import remarks
from fingerspell.splits import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.archive import Archive
    from fingerspell.calibration import Calibration
    from fingerspell.dataset import Picture
    from fingerspell.images import View
    from fingerspell.model import Model, Probabilities
    from fingerspell.progress import Progress


CONDITION_PICTURES = 10  # of each letter: 260 pictures show a drop of a few points, and cost little beside the rest
_PROBABILITIES = "probabilities.npz"
OTHERS = 200  # pictures of no letter: a share of a few percent shows


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
    others : tuple of Picture
        Of no letter: they ask whether a model knows when to say nothing.
    on_others : array (others, labels)
    """

    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]
    original: Probabilities
    conditions: Mapping[View, Probabilities]
    others: tuple[Picture, ...]
    on_others: Probabilities


def condition_sample(pictures: Sequence[Picture]) -> list[int]:
    """Rows of the pictures that are looked at under other conditions: a few of each letter, evenly spaced."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows[picture.label].append(row)
    return sorted(row for own in rows.values() for row in evenly_spaced(own, CONDITION_PICTURES))


def others_of(pictures: Sequence[Picture], count: int = OTHERS) -> tuple[Picture, ...]:
    """Some good pictures of no letter, evenly spaced."""
    return tuple(evenly_spaced([p for p in pictures if not p.problem and p.label in NON_LETTERS], count))


def answer(
    model: Model,
    archive: Archive,
    pictures: Sequence[Picture],
    others: tuple[Picture, ...],
    *,
    on_progress: Progress = silent,
) -> Answers:
    """Look at pictures of an archive, at some of them under other conditions, and at others, with a loaded model.

    Raises
    ------
    UnreadableError
        If a picture that the scan could read cannot be read any more.
    """
    sample = [pictures[row] for row in condition_sample(pictures)]
    total, done = len(pictures) + len(sample) * len(CONDITIONS) + len(others), 0

    def look(some: Sequence[Picture], view: View) -> Probabilities:
        nonlocal done
        rows = []
        for _, row in model.stream(_files(archive, some), _refuse, view):
            rows.append(row)
            done += 1
            on_progress("Recognising", done, total)
        return np.array(rows, np.float32).reshape(len(some), len(model.card.labels))

    original, on_others = look(pictures, "original"), look(others, "original")
    conditions = {view: look(sample, view) for view in CONDITIONS}
    return Answers(tuple(pictures), model.card.labels, original, conditions, others, on_others)


def summarise(
    answers: Answers,
    fitted: Calibration,
    notes: Sequence[str],
    history: list[dict[str, float]] | None = None,
    *,
    leaked: NDArray[np.bool_] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Everything that ``metrics.json`` holds: scores, letters, confusions, remarks.

    Parameters
    ----------
    answers
        What the model said.
    fitted
        What its probabilities were fitted to, and when it names no letter.
    notes
        About the data; they come before the remarks.
    history
        Of the training.
    leaked
        Whether each picture, (pictures,), has a near-copy among those that were trained on; None if nobody knows.
    facts
        Passed through: model, measured_on, split, features, unreadable.
    """
    true = np.array([picture.label for picture in answers.pictures])
    predicted = _best(answers.original, answers.labels)
    groups = bursts(answers.pictures)
    scores = metrics.scores(true, predicted, groups)
    if leaked is not None:
        static = np.isin(true, STATIC_LETTERS)
        for name, which in (("letters", np.ones_like(static)), ("static_letters", static)):
            if name in scores:
                scores[name]["near_copies"] = float(leaked[which].mean())
    labels = [letter for letter in LETTERS if letter in answers.labels or letter in true]
    summary = facts | {"scores": scores, "conditions": _conditions(answers, groups)}
    summary |= {"calibration": _calibration(answers, fitted)}
    summary |= metrics.per_letter(true, predicted, labels, groups)
    return summary | {"remarks": [*notes, *remarks(summary, history)]}


def write(folder: Path, answers: Answers, summary: dict[str, Any]) -> None:
    """Write metrics.json, predictions.csv, probabilities.npz and report.txt."""
    true = np.array([picture.label for picture in answers.pictures])
    write_text(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "predictions.csv", _predictions_csv(answers, summary["calibration"]["threshold"]))
    write_bytes(folder / _PROBABILITIES, _packed(answers))
    text = metrics.text_report(true, _best(answers.original, answers.labels), summary["labels"])
    write_text(folder / "report.txt", text + "\n" + _closing_lines(summary))


def read_probabilities(folder: Path) -> tuple[tuple[str, ...], Probabilities, Probabilities]:
    """Labels, and all probabilities of a run: (pictures, labels) in the order of predictions.csv, (others, labels).

    Raises
    ------
    RunError
        If the file is not there or damaged.
    """
    path = folder / _PROBABILITIES
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            labels = tuple(stored["labels"].tolist())
            original, on_others = (_unpacked(stored[name]) for name in ("original", "on_others"))
    except DAMAGE as error:
        raise RunError(
            f"{path}: found no readable probabilities ({error!r}); expected those of a finished run. Delete the run's "
            "folder and make it again."
        ) from error
    return labels, original, on_others


def _packed(answers: Answers) -> bytes:
    """All probabilities as logarithms, of which none is nought, however small it is."""
    original, on_others = (
        np.log(np.maximum(probabilities, calibration.LEAST)).astype(np.float32)
        for probabilities in (answers.original, answers.on_others)
    )
    file = io.BytesIO()
    np.savez_compressed(file, labels=np.array(answers.labels), original=original, on_others=on_others)
    return file.getvalue()


def _unpacked(logs: NDArray[np.floating]) -> Probabilities:
    found = np.exp(logs.astype(np.float32))
    whole: Probabilities = found / found.sum(axis=1, keepdims=True)
    return whole


def _conditions(answers: Answers, groups: metrics.Groups) -> dict[str, Any]:
    """Scores of the sample as it is and under each condition, with the paired difference in accuracy."""
    sample = condition_sample(answers.pictures)
    true = np.array([answers.pictures[row].label for row in sample])
    original = _best(answers.original[sample], answers.labels)
    groups = groups[sample]
    scores: dict[str, Any] = {"original": metrics.scores(true, original, groups)}
    for view, probabilities in answers.conditions.items():
        predicted = _best(probabilities, answers.labels)
        difference = metrics.paired_difference(predicted == true, original == true, groups)
        scores[view] = metrics.scores(true, predicted, groups) | {"difference": list(difference)}
    return scores


def _calibration(answers: Answers, fitted: Calibration) -> dict[str, Any]:
    """Whether the probabilities mean what they say on these pictures, and what naming no letter gains."""
    columns = {label: column for column, label in enumerate(answers.labels)}
    targets = np.array([columns.get(picture.label, -1) for picture in answers.pictures])
    confidence, correct = calibration.best(answers.original, targets)
    as_trained = calibration.best(calibration.temper(answers.original, 1 / fitted.temperature), targets)
    named = confidence >= fitted.threshold
    asked = Counter(picture.label for picture in answers.others)
    surest = answers.on_others.max(axis=1, initial=0)
    taken = Counter(p.label for p, sure in zip(answers.others, surest, strict=True) if sure >= fitted.threshold)
    return asdict(fitted) | {
        "error": calibration.calibration_error(confidence, correct),
        "error_at_temperature_1": calibration.calibration_error(*as_trained),
        "named": float(named.mean()),
        "wrong_of_named": float((~correct[named]).mean()) if named.any() else 0.0,
        "others": {label: {"pictures": count, "named": taken[label]} for label, count in asked.items()},
        "reliability": calibration.reliability(confidence, correct),
        "risk_coverage": calibration.risk_coverage(confidence, correct),
    }


def _files(archive: Archive, pictures: Sequence[Picture]) -> Iterator[tuple[str, bytes]]:
    return ((picture.id, archive.read(picture.id)) for picture in pictures)


def _refuse(name: str, reason: str) -> None:
    raise UnreadableError(f"{name}: {reason}, although the scan could read it. Has the archive changed? Start again.")


def _best(probabilities: Probabilities, labels: Sequence[str]) -> metrics.Labels:
    best: metrics.Labels = np.array(labels)[probabilities.argmax(axis=1)]
    return best


def _predictions_csv(answers: Answers, threshold: float) -> str:
    rows = predictions([p.id for p in answers.pictures], answers.original, answers.labels, threshold)
    return csv_text(
        ["id", "label", "predicted", "probability", "runner_up", "runner_up_probability", "answer"],
        (
            [
                *(row.id, p.label, row.letter, f"{row.probability:.6f}"),
                *(row.runner_up, f"{row.runner_up_probability:.6f}", row.answer),
            ]
            for p, row in zip(answers.pictures, rows, strict=True)
        ),
    )


def _closing_lines(summary: dict[str, Any]) -> str:
    """Scores on 26 and on 24 letters, with their intervals, below the table."""
    names = {"letters": "all letters", "static_letters": "24 static letters"}
    lines = [f"Measured on {summary['measured_on']}.", "accuracy, with its 95% interval over bursts of pictures:"]
    lines += [_line(names[key], score) for key, score in summary["scores"].items()]
    lines.append("all letters, on some of the pictures, as they are and under other conditions:")
    lines += [_line(view, scores["letters"]) for view, scores in summary["conditions"].items()]
    lines += _calibration_lines(summary["calibration"])
    absent = [row["letter"] for row in summary["per_letter"] if not row["support"]]
    if absent:
        macro_f1 = summary["macro_average"]["f1"]
        lines.append(f"The table's macro avg counts {', '.join(absent)}, without test pictures, as 0.")
        lines.append(f"Over the letters that have some, macro F1 is {macro_f1:.3f}.")
    return "\n".join(lines) + "\n"


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    error, at_1, temperature = (found[key] for key in ("error", "error_at_temperature_1", "temperature"))
    return [
        f"Calibration error {error:.3f} (temperature {temperature:.2f}; at 1 it would be {at_1:.3f}).",
        f"A letter is named from a probability of {found['threshold']:.2f}, for a risk of {found['risk']:.0%} on "  # noqa: ISC004
        f"validation: on {found['named']:.1%} of the pictures, of which {found['wrong_of_named']:.1%} are wrong.",
        *(
            f"Of {count['pictures']} pictures of {label!r}, {count['named']} get a letter."
            for label, count in found["others"].items()
        ),
    ]


def _line(name: str, score: dict[str, Any]) -> str:
    low, high = score["accuracy_interval"]
    count = f"n={score['pictures']} in {score['groups']} bursts"
    return f"{name:>20}  {score['accuracy']:.3f} [{low:.3f}, {high:.3f}]  {count}"
