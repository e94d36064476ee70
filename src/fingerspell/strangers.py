"""How good a recipe is on people it has not seen: each group of pictures is held out in turn.

A fold is a run like any other (``runs.train`` with the split ``leave-one-group-out``), in a folder of its own with its
own report. Work that was killed goes on: a finished fold is taken over. What the folds answer on their strangers is
pooled, each group with the same weight, and a temperature and a threshold are fitted on it. How well these do on a
group is said with those that were fitted on the other groups.

folder/  strangers.json  strangers.csv  strangers.png  strangers.html
         folds/<group>/                                            a run each
         model/  recipe.toml  split.csv  history.csv               of all groups, if asked for
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import t as student

from fingerspell import cache, calibration, metrics, steps
from fingerspell.alphabet import LETTERS
from fingerspell.archive import open_archives
from fingerspell.calibration import Calibration
from fingerspell.dataset import scan
from fingerspell.errors import DAMAGE, RecipeError, RunError, SplitError
from fingerspell.evaluation import read_probabilities
from fingerspell.files import check_folder, csv_text, write_text
from fingerspell.images import CONDITIONS, VIEWS
from fingerspell.neighbours import bursts
from fingerspell.progress import silent
from fingerspell.recipes import override
from fingerspell.reporting import write_strangers
from fingerspell.runs import train, train_everybody

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.calibration import Probabilities
    from fingerspell.dataset import Picture
    from fingerspell.progress import Progress
    from fingerspell.recipes import Recipe
    from fingerspell.runs import Run

By = Literal["archive", "signer"]

_PROTOCOL = "leave-one-group-out"
_OWN = ("split.protocol", "split.held_out")  # values of a recipe that are decided here
_PLACES = (*LETTERS, *VIEWS[:1], *CONDITIONS)  # order of letters, and of conditions
_SURENESS = ("calibration_error", "named", "wrong_of_named")


@dataclass(frozen=True)
class Fold:
    """What a run answers on the group that it had not seen.

    Attributes
    ----------
    name : str
        Of the group.
    pictures : tuple of Picture
    groups : tuple of str
        Group of each picture: that one, or one below it.
    targets : array (pictures,)
        Columns of their letters.
    probabilities : array (pictures, labels)
        At temperature 1.
    on_others : array (others, labels)
        The same on the group's pictures of no letter.
    fitted : Calibration
        On the run's own validation pictures.
    near_copies : float
        Share of the pictures with a near-copy in training.
    conditions : dict
        Accuracy on some of the pictures as they are, and of these mirrored, in other light, coarser and blurred.
    labels : tuple of str
        Letters of the columns, the same for all folds: those that the data set has.
    """

    name: str
    pictures: tuple[Picture, ...]
    groups: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: Probabilities
    on_others: Probabilities
    fitted: Calibration
    near_copies: float
    conditions: Mapping[str, float]
    labels: tuple[str, ...] = LETTERS


@dataclass(frozen=True)
class _Known:
    """What is known of all pictures of letters before any training; ``rendered`` are ids of those of nobody's hands."""

    name: str
    pictures: dict[str, Picture]
    groups: dict[str, str]
    rendered: frozenset[str]
    recipe: Recipe


def strangers(
    sources: Sequence[Path | str],
    out: Path,
    *,
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    by: By = "archive",
    final: Mapping[str, Any] | None = None,
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train a recipe once for each group, without that group, and write how good it is on it to ``out``.

    Parameters
    ----------
    sources
        Archives; one is enough if it says who its signers are. Rendered sets among them teach and are never held out.
    out
        Folder of the results. Finished folds of the same recipe and pictures in it are taken over.
    recipe, overrides
        As for ``train``; the split is decided here.
    by
        "archive" holds out an archive with all its signers, "signer" one signer, where they are known.
    final
        Train a model on all groups too, with the temperature and threshold that were fitted on strangers; its recipe
        has these values instead of the folds'.
    on_progress
        Told of every step.

    Returns
    -------
    dict
        Content of ``strangers.json``: a row for each group (and signer in it), the mean over the groups, and the
        calibration that was fitted on all of them.

    Raises
    ------
    FingerspellError
        If there are no two groups, or a stage of a fold cannot do its work.
    """
    overrides = dict(overrides or {})
    if given := [name for name in _OWN if overrides.get(name) is not None]:
        raise RecipeError(
            f"{given[0]} = {overrides[given[0]]!r}: found a split; expected none, for each group is held out in turn. "
            "Leave it out, or use `fingerspell train`."
        )
    overrides |= {"split.protocol": _PROTOCOL}
    known = _look(sources, recipe, overrides, on_progress)
    last = override(known.recipe, dict(final or {}))
    names = _held_out(known, by)
    check_folder(out, result="a study of strangers", overwrite=False)
    chosen = {"recipe": known.recipe.name, "backbone": known.recipe.features.backbone, "head": known.recipe.head.kind}
    facts = {"data": known.name, **chosen, "by": by, "rendered": len(known.rendered)}
    _check_same_study(out, facts)
    folds = []
    for number, name in enumerate(names):
        on_progress("Groups held out", number, len(names))
        folder = out / "folds" / name.replace("/", "+")
        run = train(
            sources,
            recipe=recipe,
            overrides=overrides | {"split.held_out": name},
            out=folder,
            keep=True,
            on_progress=on_progress,
        )
        folds.append(_read_fold(run, name, known))
    on_progress("Groups held out", len(names), len(names))
    result = summarise(folds, risk=known.recipe.risk) | facts
    if final is not None:
        fitted = Calibration(**result["calibration"])
        measured = _measured(result, names, dict(final))
        train_everybody(sources, last, fitted, measured, out, on_progress=on_progress)
    _write(out, result)
    return result


def summarise(folds: Sequence[Fold], *, risk: float) -> dict[str, Any]:
    """Rows of the groups, their mean, and the calibration that all of them give together."""
    rows = [_row(fold, fit([other for other in folds if other is not fold], risk)) for fold in folds]
    return {"groups": rows, "mean": _mean(rows), "calibration": asdict(fit(folds, risk))}


def fit(folds: Sequence[Fold], risk: float) -> Calibration:
    """Temperature and threshold from answers on strangers, every fold with the same weight."""
    return calibration.fit(
        np.concatenate([fold.probabilities for fold in folds]),
        np.concatenate([fold.targets for fold in folds]),
        risk,
        weights=_alike([len(fold.targets) for fold in folds]),
        on_others=np.concatenate([fold.on_others for fold in folds]),
        others_weights=_alike([len(fold.on_others) for fold in folds]),
    )


def _alike(counts: Sequence[int]) -> NDArray[np.float64]:
    """Weights of all pictures of folds with so many each, so that every fold weighs the same."""
    return np.concatenate([np.full(count, 1 / max(count, 1)) for count in counts])


def _measured(result: dict[str, Any], names: list[str], instead: dict[str, Any]) -> dict[str, Any]:
    """What the card of the model of all groups says of models that had not seen one."""
    rows = [{"group": row["group"], "scores": row["scores"]} for row in result["groups"]]
    details = {name: result["mean"][name] for name in ("letters", "conditions")}
    return {
        "scores": result["mean"]["scores"],
        "strangers": {"groups": rows} | details | result["mean"]["on_strangers"],
        "trained_on": {
            "protocol": "all groups",
            "held_out_in_turn": names,
            "unlike_the_folds": {name: value for name, value in instead.items() if value is not None},
        },
    }


def _look(
    sources: Sequence[Path | str], recipe: str | None, overrides: dict[str, Any], on_progress: Progress
) -> _Known:
    with open_archives(sources) as archive:
        dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        chosen = steps.choose_recipe(archive, dataset, recipe, overrides)
        letters = dataset.letters()
        groups = steps.choose_groups(archive, letters, chosen)
        pictures = {picture.id: picture for picture in letters}
        return _Known(dataset.name, pictures, groups, steps.rendered_of(archive, letters), chosen)


def _held_out(known: _Known, by: By) -> list[str]:
    """Names of the groups to hold out: rendered hands only teach."""
    found = {group for name, group in known.groups.items() if name not in known.rendered}
    tops = {name.partition("/")[0] for name in found}
    names = sorted(tops if by == "archive" and len(tops) > 1 else found)
    if len(names) < 2:
        raise SplitError(
            f"{known.name}: found {len(names)} group(s) of pictures; expected at least two, one to train on and one to "
            "hold out. Give several archives, or say who is who: --groups FILE.csv[:COLUMN]. Rendered sets only teach."
        )
    return names


def _check_same_study(out: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder with a finished study of something else, which would be lost."""
    path = out / "strangers.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text("utf-8"))
        other = next((name for name, value in facts.items() if found[name] != value), None)
    except DAMAGE as error:
        raise RunError(f"{path}: the study there cannot be read ({error!r}). Delete that file to go on.") from error
    if other:
        raise RunError(
            f"{out}: found a study with {other} = {found[other]!r}, expected {facts[other]!r}. Choose another folder "
            "with --out; nothing was changed."
        )


def _read_fold(run: Run, name: str, known: _Known) -> Fold:
    """Answers of a finished fold, from its files."""
    folder, found = run.folder, run.metrics
    labels, probabilities, on_others = read_probabilities(folder)
    try:
        with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
            pictures = tuple(known.pictures[row["id"]] for row in csv.DictReader(file))
        fitted = Calibration(*(found["calibration"][field] for field in ("temperature", "threshold", "risk")))
        near_copies = found["scores"]["letters"]["near_copies"]
        conditions = {name: scores["letters"]["accuracy"] for name, scores in found["conditions"].items()}
    except DAMAGE as error:
        raise RunError(
            f"{folder}: found no readable metrics.json and predictions.csv ({error!r}); expected those of a finished "
            "run. Delete the run's folder and make it again."
        ) from error
    own = tuple(sorted({picture.label for picture in known.pictures.values()}))
    if len(probabilities) != len(pictures) or set(labels) - set(own):
        raise RunError(
            f"{folder}: found {len(probabilities)} rows of probabilities of {', '.join(labels)} for {len(pictures)} "
            f"predictions of {', '.join(own)}; expected as many, and of these. The files are of two runs: delete this "
            "folder and start again."
        )
    return Fold(
        name,
        pictures,
        tuple(known.groups[picture.id] for picture in pictures),
        np.array([own.index(picture.label) for picture in pictures], np.int64),
        _untempered(probabilities, labels, own, fitted.temperature),
        _untempered(on_others, labels, own, fitted.temperature),
        fitted,
        near_copies,
        conditions,
        own,
    )


def _untempered(
    probabilities: Probabilities, labels: Sequence[str], wanted: Sequence[str], temperature: float
) -> Probabilities:
    """Probabilities (N, wanted) at temperature 1, from those (N, labels) that were divided by one."""
    result: Probabilities = np.zeros((len(probabilities), len(wanted)), np.float32)
    result[:, [wanted.index(label) for label in labels]] = calibration.temper(probabilities, 1 / temperature)
    return result


def _row(fold: Fold, on_strangers: Calibration) -> dict[str, Any]:
    """Scores of a group, with its own run's calibration and with that of the other groups; and of its signers."""
    numbers = bursts(fold.pictures)
    signers = sorted(set(fold.groups) - {fold.name})
    everyone = np.ones(len(fold.pictures), bool)
    return {
        "group": fold.name,
        "near_copies": fold.near_copies,
        **_scores(fold, everyone, numbers, on_strangers),
        "letters": _recalls(fold),
        "conditions": dict(fold.conditions),
        "others": _others(fold, on_strangers),
        "signers": [
            {"group": signer} | _scores(fold, np.array([g == signer for g in fold.groups]), numbers, on_strangers)
            for signer in signers
        ],
    }


def _recalls(fold: Fold) -> dict[str, float]:
    """Share of the pictures of each letter that are read right."""
    right = fold.probabilities.argmax(axis=1) == fold.targets
    return {fold.labels[target]: float(right[fold.targets == target].mean()) for target in np.unique(fold.targets)}


def _scores(fold: Fold, which: NDArray[np.bool_], numbers: metrics.Groups, on_strangers: Calibration) -> dict[str, Any]:
    letters = np.array(fold.labels)
    probabilities, targets = fold.probabilities[which], fold.targets[which]
    predicted = letters[probabilities.argmax(axis=1)]
    return {
        "scores": metrics.scores(letters[targets], predicted, numbers[which]),
        "as_trained": _sureness(probabilities, targets, fold.fitted),
        "on_strangers": _sureness(probabilities, targets, on_strangers),
    }


def _sureness(probabilities: Probabilities, targets: NDArray[np.int64], fitted: Calibration) -> dict[str, Any]:
    """How far probabilities and threshold of a calibration hold on these pictures."""
    confidence, right = calibration.best(calibration.temper(probabilities, fitted.temperature), targets)
    named = confidence >= fitted.threshold
    return asdict(fitted) | {
        "calibration_error": calibration.calibration_error(confidence, right),
        "named": float(named.mean()),
        "wrong_of_named": float((~right[named]).mean()) if named.any() else None,
    }


def _others(fold: Fold, on_strangers: Calibration) -> dict[str, Any] | None:
    """Pictures of no letter, and the shares of them that get a letter; None without any."""
    if not len(fold.on_others):
        return None
    shares = {
        name: float((calibration.temper(fold.on_others, f.temperature).max(axis=1) >= f.threshold).mean())
        for name, f in (("as_trained", fold.fitted), ("on_strangers", on_strangers))
    }
    return {"pictures": len(fold.on_others)} | shares


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the groups, whatever their size: what to expect on one more."""
    return {
        "scores": {
            kind: _mean_score([row["scores"][kind] for row in rows if kind in row["scores"]])
            for kind in ("letters", "static_letters")
            if any(kind in row["scores"] for row in rows)
        },
        **{fitted: _mean_sureness([row[fitted] for row in rows]) for fitted in ("as_trained", "on_strangers")},
        **{
            part: {
                name: _mean_of([row[part].get(name) for row in rows])
                for name in sorted({name for row in rows for name in row[part]}, key=_PLACES.index)
            }
            for part in ("letters", "conditions")
        },
    }


def _mean_score(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of accuracy and macro F1 with 95% intervals of Student's t over groups; of two groups they say little."""
    counts = {"pictures": sum(score["pictures"] for score in scores), "groups": len(scores)}
    means: dict[str, Any] = {}
    for measure in ("accuracy", "macro_f1"):
        values = np.array([score[measure] for score in scores])
        low, high = 0.0, 1.0
        if len(values) > 1:
            half = student.ppf((1 + metrics.CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
            low, high = max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))
        means |= {measure: float(values.mean()), f"{measure}_interval": [low, high]}
    return counts | means


def _mean_sureness(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Means over the groups; of what is named, by how much of each group is."""
    named = np.array([row["named"] for row in rows])
    wrong = named @ [row["wrong_of_named"] or 0.0 for row in rows]
    return {
        "calibration_error": _mean_of([row["calibration_error"] for row in rows]),
        "named": float(named.mean()),
        "wrong_of_named": float(wrong / named.sum()) if named.any() else None,
    }


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _write(out: Path, result: dict[str, Any]) -> None:
    write_text(out / "strangers.json", json.dumps(result, indent=1) + "\n")
    measures = ("pictures", "groups", "accuracy", "low", "high", "macro_f1")
    header = [
        *("group", "signer_of", *(f"{kind}_{name}" for kind in ("letters", "static") for name in measures)),
        *(f"{fitted}_{name}" for fitted in ("as_trained", "on_strangers") for name in _SURENESS),
    ]
    rows = [_cells(row, of) for top in result["groups"] for row, of in _with_signers(top)]
    write_text(out / "strangers.csv", csv_text(header, [*rows, _cells({"group": "mean"} | result["mean"], "")]))
    write_strangers(out, result)


def _with_signers(top: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    return [(top, ""), *((signer, top["group"]) for signer in top["signers"])]


def _cells(row: dict[str, Any], signer_of: str) -> list[str]:
    cells = [row["group"], signer_of]
    for kind in ("letters", "static_letters"):
        if score := row["scores"].get(kind):
            values = (score["accuracy"], *score["accuracy_interval"], score["macro_f1"])
            cells += [str(score["pictures"]), str(score["groups"]), *(f"{value:.4f}" for value in values)]
        else:
            cells += [""] * 6
    for fitted in ("as_trained", "on_strangers"):
        cells += ["" if row[fitted][name] is None else f"{row[fitted][name]:.4f}" for name in _SURENESS]
    return cells
