"""Every model on every data set: one matrix, with intervals, paired tests, and the letters that moved.

A row is a model, or a folder of models that are folds of one recipe: their answers are pooled, so that on their own
data set each picture is answered by the one model that has not seen its group. Features are computed once for each
backbone and remembered, like those of a training run.

folder/  comparison.json  matrix.csv  paired.csv  matrix.png  comparison.html
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fingerspell import cache, calibration, metrics
from fingerspell.alphabet import LETTERS, STATIC_LETTERS
from fingerspell.archive import open_archive, stem_of
from fingerspell.backbones import backbone_of
from fingerspell.dataset import scan
from fingerspell.engines import Hands, HandsEngine, open_engine
from fingerspell.errors import DatasetError, ModelError, RunError
from fingerspell.exporting import read_head
from fingerspell.features import extract, open_store
from fingerspell.files import check_folder, csv_text, write_text
from fingerspell.graphs import keep_graph
from fingerspell.hands import NAME
from fingerspell.heads import probabilities
from fingerspell.images import VIEWS
from fingerspell.model import Model, load_model
from fingerspell.neighbours import bursts
from fingerspell.progress import silent
from fingerspell.reporting import write_comparison

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from fingerspell.archive import Archive
    from fingerspell.calibration import Probabilities
    from fingerspell.dataset import Dataset, Picture
    from fingerspell.engines import Engine
    from fingerspell.model import Card
    from fingerspell.progress import Progress

_FEW = 5  # pictures of a letter below which nothing is said of its change


@dataclass(frozen=True)
class Entry:
    """A row of the matrix: one model, or the folds of one recipe.

    Attributes
    ----------
    name : str
        Of the folder.
    folders : tuple of Path
        Model folders.
    """

    name: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Answered:
    """What a row says on the pictures of one archive; a picture that several folds answer is there several times.

    Attributes
    ----------
    ids : array (answers,)
    true, predicted : array (answers,)
        Letters.
    confidence : array (answers,)
        Probability of the predicted letter.
    named : array (answers,)
        Whether that is enough for the model to name it.
    groups : array (answers,)
        Bursts of the archive.
    own : bool
        Whether the pictures are the test pictures of the archive that the row was trained on.
    """

    ids: NDArray[np.str_]
    true: metrics.Labels
    predicted: metrics.Labels
    confidence: NDArray[np.float32]
    named: NDArray[np.bool_]
    groups: metrics.Groups
    own: bool


class _Pictures(NamedTuple):
    """Pictures that a row answered, each once, with the share of its answers that is ``right``."""

    ids: NDArray[np.str_]
    true: metrics.Labels
    groups: metrics.Groups
    right: NDArray[np.float64]


def entries_in(path: Path) -> Entry | None:
    """Row of the matrix that a folder stands for: a model, a run, or a folder of runs; None if it is none of these."""
    if not path.is_dir():
        return None
    if model := _model_folder(path):
        return Entry(path.name, (model,))
    folds = tuple(model for child in sorted(path.iterdir()) if child.is_dir() and (model := _model_folder(child)))
    return Entry(path.name, folds) if folds else None


def compare(
    entries: Sequence[Entry],
    archives: Sequence[Path],
    out: Path,
    *,
    hand_model: Path | None = None,
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Measure every row on every archive and write the results to ``out``; ``hand_model`` is ``load_model``'s.

    Raises
    ------
    FingerspellError
        If a model or an archive cannot be used; of a model that was trained on one of the archives, only the test
        pictures of its run are asked for.
    """
    for kind, names in (
        ("models", [entry.name for entry in entries]),
        ("archives", [stem_of(path) for path in archives]),
    ):
        if not names:
            raise RunError(f"compare: found no {kind}. Give at least one model folder and one archive.")
        if len(set(names)) < len(names):
            raise RunError(f"compare: two {kind} have one name ({', '.join(sorted(names))}). Rename one of them.")
    cells: dict[tuple[str, str], Answered] = {}
    check_folder(out, result="a comparison", overwrite=True)
    models = {folder: load_model(folder, hand_model) for entry in entries for folder in entry.folders}
    if hand_model and not any(model.detector for model in models.values()):
        raise RunError("compare: --hand-model has no effect, for no model here looks for hands. Leave it out.")
    for entry in entries:
        _check_folds(entry, [models[folder].card for folder in entry.folders])
    for path in archives:
        with open_archive(path) as archive:
            dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
            pictures = dataset.letters()
            numbers = dict(zip((p.id for p in pictures), bursts(pictures).tolist(), strict=True))
            for entry in entries:
                named = {folder: models[folder] for folder in entry.folders}
                cells[entry.name, stem_of(path)] = _answers(named, archive, dataset, numbers, on_progress)
    result = summarise(cells, {entry.name: models[entry.folders[0]].card for entry in entries})
    _write(out, result)
    return result


def summarise(cells: dict[tuple[str, str], Answered], cards: dict[str, Any]) -> dict[str, Any]:
    """Content of ``comparison.json``: rows, columns, cells, and the pairs of rows on each column."""
    rows, columns = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    return {
        "models": {name: {"trained_on": card.trained_on["archive"], "head": card.head} for name, card in cards.items()},
        "archives": columns,
        "cells": [
            {"model": model, "archive": archive, "own": answered.own}
            | metrics.scores(answered.true, answered.predicted, answered.groups)
            | _sureness(answered)
            for (model, archive), answered in cells.items()
        ],
        "pairs": [
            {"archive": archive, "model": one, "other": other} | _paired(cells[one, archive], cells[other, archive])
            for archive in columns
            for one, other in combinations(rows, 2)
            if set(cells[one, archive].ids) & set(cells[other, archive].ids)
        ],
    }


def _check_folds(entry: Entry, cards: Sequence[Card]) -> None:
    """Refuse to take runs of different recipes for folds of one."""
    kinds = {f"{card.trained_on['recipe']} ({card.backbone.get('backbone', NAME)}, {card.head})" for card in cards}
    if len(kinds) > 1:
        raise RunError(
            f"{entry.name}: found runs of {', '.join(sorted(kinds))} in this folder; expected the folds of one recipe. "
            "Name the runs one by one."
        )


def _model_folder(path: Path) -> Path | None:
    for folder in (path / "model", path):
        if (folder / "model.json").exists():
            return folder
    return None


def _answers(
    models: dict[Path, Model], archive: Archive, dataset: Dataset, numbers: dict[str, int], on_progress: Progress
) -> Answered:
    """Answers of a row on an archive whose pictures have these numbers of bursts."""
    pictures = dataset.letters()
    asked, letters, sure, named, own = [], [], [], [], False
    for folder, model in models.items():
        place = model.card.place_of(dataset.digest)
        own = own or place is not None
        some = list(pictures) if place is None else _unseen(folder, pictures, place)
        if not some:
            continue
        asked += some
        found = _probabilities(folder, model, archive, some, on_progress)
        letters.append(np.array(model.card.labels)[found.argmax(axis=1)])
        sure.append(found.max(axis=1))
        named.append(sure[-1] >= model.card.threshold)
    if not asked:
        raise DatasetError(
            f"{dataset.name}: found no test picture of it in the split.csv of {', '.join(map(str, models))}; expected "
            "some, for it was trained on. Leave the model or the archive out, or train the model again."
        )
    return Answered(
        ids=np.array([p.id for p in asked]),
        true=np.array([p.label for p in asked]),
        predicted=np.concatenate(letters),
        confidence=np.concatenate(sure),
        named=np.concatenate(named),
        groups=np.array([numbers[p.id] for p in asked]),
        own=own,
    )


def _unseen(folder: Path, pictures: Sequence[Picture], place: str) -> list[Picture]:
    """Test pictures of the run that trained a model: on the others it has nothing to prove."""
    table = folder.parent / "split.csv"
    if not table.exists():
        raise ModelError(
            f"{folder}: this model was trained on this archive, and without the split.csv of its run nobody knows on "
            "which pictures. Give the folder of the run, or leave the archive out."
        )
    with table.open(newline="", encoding="utf-8") as file:
        tests = {row["id"] for row in csv.DictReader(file) if row["role"] == "test"}
    return [picture for picture in pictures if f"{place}{picture.id}" in tests]


def _probabilities(
    folder: Path, model: Model, archive: Archive, pictures: Sequence[Picture], on_progress: Progress
) -> Probabilities:
    import torch

    head = read_head(folder, model.card.head)
    engine = _engine(folder, model, head)
    original = VIEWS[:1]
    with open_store(cache.features_folder(), engine) as store:
        extract(archive, pictures, engine, store, views=original, on_progress=on_progress)
        features = store.load(pictures, original)[:, 0]
    result: Probabilities = probabilities(head, torch.from_numpy(features)).numpy()
    return result


def _engine(folder: Path, model: Model, head: nn.Module) -> Engine:
    """Engine of the features that a model's head reads, without the backbone's weights."""
    points = HandsEngine(model.detector) if model.detector else None
    if points and model.card.size is None:
        return points
    joined = model.card.head == "fusion"
    hands = Hands(points, crop=model.card.crop == "hand", joined=joined) if points else None
    network = head.get_submodule("pixels") if joined else head
    backbone = backbone_of(model.card.backbone, dimension=next(iter(network.parameters())).shape[-1])
    keep_graph(backbone, folder / "model.onnx", cache.graphs_folder())
    precision = model.card.backbone["precision"]
    return open_engine(backbone, cache.graphs_folder(), engine="openvino", precision=precision, hands=hands)


def _sureness(answered: Answered) -> dict[str, Any]:
    """What is left of a model's calibration on these pictures, and of the risk that its threshold was chosen for."""
    right, named = answered.predicted == answered.true, answered.named
    return {
        "calibration_error": calibration.calibration_error(answered.confidence, right),
        "named": float(named.mean()),
        "wrong_of_named": float((~right[named]).mean()) if named.any() else None,
    }


def _paired(one: Answered, other: Answered) -> dict[str, Any]:
    """Difference in accuracy on the pictures of both, and the letters in which it is more than chance."""
    mine, theirs = _by_picture(one), _by_picture(other)
    common, rows, other_rows = np.intersect1d(mine.ids, theirs.ids, assume_unique=True, return_indices=True)
    true, groups, right, other_right = mine.true[rows], mine.groups[rows], mine.right[rows], theirs.right[other_rows]
    moved = []
    for letter in LETTERS:
        own = true == letter
        if own.sum() < _FEW:
            continue
        interval = metrics.quick_difference(right[own], other_right[own], groups[own])
        if not interval[0] <= 0 <= interval[1]:
            difference = float(right[own].mean() - other_right[own].mean())
            moved.append({"letter": letter, "difference": difference, "interval": list(interval)})
    static = np.isin(true, STATIC_LETTERS)
    return {
        "pictures": len(common),
        "difference": float(right.mean() - other_right.mean()),
        "interval": list(metrics.paired_difference(right, other_right, groups)),
        "static_difference": float(right[static].mean() - other_right[static].mean()) if static.any() else None,
        "moved": moved,
    }


def _by_picture(answered: Answered) -> _Pictures:
    ids, first, rows, counts = np.unique(answered.ids, return_index=True, return_inverse=True, return_counts=True)
    right = np.bincount(rows, answered.predicted == answered.true) / counts
    return _Pictures(ids, answered.true[first], answered.groups[first], right)


def _write(out: Path, result: dict[str, Any]) -> None:
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    measures = ("accuracy", "low", "high", "pictures", "groups")
    sureness = ("calibration_error", "named", "wrong_of_named")
    header = ["model", "archive", "own", *measures, *(f"static_{name}" for name in measures), *sureness]
    rows = [
        [
            *(cell["model"], cell["archive"], int(cell["own"])),
            *(*_cells(cell["letters"]), *_cells(cell.get("static_letters"))),
            *("" if cell[name] is None else f"{cell[name]:.4f}" for name in sureness),
        ]
        for cell in result["cells"]
    ]
    write_text(out / "matrix.csv", csv_text(header, rows))
    pairs = [
        [
            *(pair["archive"], pair["model"], pair["other"], pair["pictures"]),
            *(f"{value:.4f}" for value in (pair["difference"], *pair["interval"])),
            " ".join(f"{letter['letter']}{letter['difference']:+.2f}" for letter in pair["moved"]),
        ]
        for pair in result["pairs"]
    ]
    write_text(
        out / "paired.csv",
        csv_text(["archive", "model", "other", "pictures", "difference", "low", "high", "letters_moved"], pairs),
    )
    write_comparison(out, result)


def _cells(score: dict[str, Any] | None) -> list[str]:
    if score is None:
        return [""] * 5
    low, high = score["accuracy_interval"]
    return [*(f"{value:.4f}" for value in (score["accuracy"], low, high)), str(score["pictures"]), str(score["groups"])]
