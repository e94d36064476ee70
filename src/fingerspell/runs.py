"""A run: one pass from an archive to a folder with a model and its report."""

from __future__ import annotations

import hashlib
import json
import os
import time
import tomllib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerspell import cache, evaluation, inspection, splits, steps
from fingerspell.alphabet import LETTERS
from fingerspell.archive import open_archive, open_archives, stem_of
from fingerspell.dataset import scan
from fingerspell.errors import DAMAGE, RunError, TuningError
from fingerspell.files import check_folder, check_writable, csv_text, file_digest, write_text
from fingerspell.hands import bundle_digest
from fingerspell.images import decode
from fingerspell.neighbours import has_near_copy
from fingerspell.progress import silent
from fingerspell.recipes import OF_HANDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fingerspell.archive import Archive
    from fingerspell.calibration import Calibration
    from fingerspell.dataset import Dataset
    from fingerspell.engines import Engine
    from fingerspell.evaluation import Answers
    from fingerspell.features import Extraction
    from fingerspell.model import Card, Model
    from fingerspell.progress import Progress
    from fingerspell.recipes import Recipe
    from fingerspell.splits import Split
    from fingerspell.training import Trained

_RUNS = Path("runs")  # folder of the results that nobody gave one
_LICENCES = "The licences of the training pictures and of the pretrained weights may bind this model too: check them."
_NEWER = ("held_out", "per_group")  # values of a split; without them a recipe keeps the digest it had before them
_DELETE = "Delete this folder to have it made again, or choose another with --out; nothing was changed."
_FILES = {"weights": file_digest, "hand_model": bundle_digest}  # a recipe's features that are files, and what they are
_KNOWN = (
    "This is no score to quote: the model was trained on this archive. `fingerspell compare` measures the model of a "
    "run on its test pictures alone."
)
_TUNED = "The network was fine-tuned on the training pictures."


@dataclass(frozen=True)
class Run:
    """A finished run or evaluation: its folder, and what ``metrics.json`` holds."""

    folder: Path
    metrics: dict[str, Any]
    seconds: dict[str, float]
    extraction: Extraction | None = None


@dataclass
class _Clock:
    """Seconds that each stage took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def train(
    source: Path | str | Sequence[Path | str],
    *,
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    keep: bool = False,
    on_progress: Progress = silent,
) -> Run:
    """Run a recipe on an archive: scan, split, extract, train, export, evaluate, report.

    Parameters
    ----------
    source
        Zip file, tar file or folder with one folder a letter; or several, which are read as one.
    recipe
        Name or .toml file; None chooses by the layout of the archive.
    overrides
        Values that replace the recipe's, by dotted name (``{"split.sample": 26000}``).
    out
        Folder of the run; None for ``runs/<recipe>-<digest>``, which the same archive and recipe always share.
    overwrite
        Replace the files of a finished run in that folder.
    keep
        Take over what ``out`` holds, as it is, if that is a finished run; of this recipe and these pictures, else it is
        an error.
    on_progress
        Told of every step.

    Raises
    ------
    FingerspellError
        A subclass says which stage could not do its work. Without ``overwrite`` nothing that was there is touched.
    """
    from fingerspell.exporting import write_model
    from fingerspell.features import open_store
    from fingerspell.heads import tempered
    from fingerspell.precision import cost_notes, measure_cost

    clock = _Clock()
    with open_archives(source) as archive:
        with clock.stage("scan"):
            dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        chosen = steps.choose_recipe(archive, dataset, recipe, overrides)
        split = steps.choose_split(archive, dataset, chosen)
        refused, others = steps.choose_others(archive, dataset, chosen)
        if keep and out and (Path(out) / "report.html").exists():
            return Run(Path(out), _finished(Path(out), chosen, dataset, split), clock.seconds)
        if out:  # before hours of training
            check_folder(Path(out), result="a run", overwrite=overwrite)
        else:
            check_writable(_RUNS)
        with clock.stage("backbone"):
            spare = steps.choose_spare_others(archive, dataset, (*refused, *others), chosen)
            engine = steps.choose_engine(archive, split, spare, chosen, on_progress)
        default = _RUNS / f"{chosen.name}-{_digest(chosen, dataset, split, engine)[:8]}"
        folder = Path(out) if out else default
        check_folder(folder, result="a run", overwrite=overwrite)
        clear_folder(folder)
        write_text(folder / "recipe.toml", chosen.to_toml())
        write_text(folder / "split.csv", split.to_csv())
        with open_store(cache.features_folder(), engine) as store:
            with clock.stage("features"):
                extraction = steps.extract_features(
                    archive, split, (*refused, *others), engine, store, chosen, on_progress
                )
            with clock.stage("head"):
                trained = steps.train_head(archive, store, split, chosen, on_progress)
                fitted = steps.calibrate(store, split, refused, trained.head, chosen.risk)
                head = tempered(trained.head, fitted.temperature)
                answers = steps.answer(store, split, others, head)
            with clock.stage("precision"):
                precision = measure_cost(archive, split.test, engine, store, head)
        _write_history(folder, trained)
        summary = evaluation.summarise(
            answers,
            fitted,
            [*inspection.notes(dataset), *cost_notes(precision)],
            trained.history,
            # What is near to a rendered picture is so by chance.
            leaked=has_near_copy(split.test, splits.measurable(split.train, steps.rendered_of(archive, split.train))),
            model=folder.absolute().name,
            measured_on=f"{len(split.test):,} test pictures of {dataset.name}, split {chosen.split.protocol}",
            split=_split_facts(split, chosen),
            features=precision,
            unreadable=_unreadable(dataset),
        )
        with clock.stage("export"):
            card = _card(folder.absolute().name, answers.labels, chosen, dataset, engine, fitted, summary)
            card = _with_parts(card, archive, dataset)
            write_model(folder / "model", engine.graph(cache.graphs_folder()), head, card)
        _write_results(folder, archive, answers, summary, _timing(clock, extraction))
    return Run(folder, summary, clock.seconds, extraction)


def is_helper() -> bool:
    """Whether this process only helps another to train: one of several, as torchrun counts them, and not the first.

    Raises
    ------
    TuningError
        If what torchrun says is no number.
    """
    return _torchrun("WORLD_SIZE", "1") > 1 and _torchrun("RANK", "0") > 0


def help_to_train(
    source: Path | str | Sequence[Path | str], *, recipe: str | None = None, overrides: dict[str, Any] | None = None
) -> None:
    """Do this process's part of the fine-tuning of ``train``, which another process runs with the same arguments."""
    with open_archives(source) as archive:
        dataset = scan(archive, memory=cache.scans_folder())
        chosen = steps.choose_recipe(archive, dataset, recipe, overrides)
        if chosen.fine_tuning.enabled:
            refused, others = steps.choose_others(archive, dataset, chosen)
            spare = steps.choose_spare_others(archive, dataset, (*refused, *others), chosen)
            steps.tune_backbone(archive, steps.choose_split(archive, dataset, chosen), spare, chosen, silent)


def evaluate(
    model: Model,
    source: Path | str,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    on_progress: Progress = silent,
) -> Run:
    """Score a model on every good picture of letters in an archive, and write metrics, figures and a report.

    Parameters
    ----------
    model
        As ``load_model`` gives it.
    source
        Zip file, tar file or folder with one folder a letter.
    out
        Folder of the results; None for ``runs/<model>-on-<archive>``.
    overwrite
        Replace the files of a finished evaluation in that folder.
    on_progress
        Told of every step.
    """
    from fingerspell.calibration import Calibration

    clock = _Clock()
    with open_archive(source) as archive:
        with clock.stage("scan"):
            dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        pictures = dataset.letters()
        folder = Path(out) if out else _RUNS / f"{model.card.name}-on-{stem_of(archive.path)}"
        check_folder(folder, result="an evaluation", overwrite=overwrite)
        with clock.stage("recognition"):
            answers = evaluation.answer(
                model, archive, pictures, evaluation.others_of(dataset.pictures), on_progress=on_progress
            )
        known = [_KNOWN] if model.card.knows(dataset.digest) else []
        summary = evaluation.summarise(
            answers,
            Calibration(model.card.temperature, model.card.threshold, model.card.risk),
            [*known, *inspection.notes(dataset)],
            model=model.card.name,
            measured_on=f"{len(pictures):,} pictures of {dataset.name}, trained on {_trained_on(model.card)}",
            unreadable=_unreadable(dataset),
        )
        clear_folder(folder)
        _write_results(folder, archive, answers, summary, _timing(clock, None))
    return Run(folder, summary, clock.seconds)


def train_everybody(
    sources: Sequence[Path | str],
    chosen: Recipe,
    fitted: Calibration,
    measured: dict[str, Any],
    out: Path,
    *,
    on_progress: Progress = silent,
) -> None:
    """Train on all groups and write the model; there is no test set left, so its scores come from elsewhere.

    Parameters
    ----------
    sources
        As for ``train``.
    chosen
        The recipe.
    fitted
        Temperature and threshold, from pictures that models of this recipe had not seen.
    measured
        ``scores`` and ``strangers`` of the card, and what else it says of ``trained_on``.
    out
        Gets recipe.toml, split.csv, history.csv and model/.
    on_progress
        Told of every step.
    """
    from fingerspell.exporting import write_model
    from fingerspell.features import open_store
    from fingerspell.heads import tempered

    with open_archives(sources) as archive:
        dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        pictures = dataset.letters()
        groups = steps.choose_groups(archive, pictures, chosen)
        split = splits.everybody(pictures, chosen.split, groups, steps.rendered_of(archive, pictures))
        spare = steps.choose_spare_others(archive, dataset, (), chosen)
        engine = steps.choose_engine(archive, split, spare, chosen, on_progress)
        write_text(out / "recipe.toml", chosen.to_toml())
        write_text(out / "split.csv", split.to_csv())
        with open_store(cache.features_folder(), engine) as store:
            steps.extract_features(archive, split, (), engine, store, chosen, on_progress)
            trained = steps.train_head(archive, store, split, chosen, on_progress)
        _write_history(out, trained)
        summary = {"split": _split_facts(split, chosen) | measured["trained_on"], "scores": measured["scores"]}
        card = _card(out.absolute().name, split.labels, chosen, dataset, engine, fitted, summary)
        card = replace(_with_parts(card, archive, dataset), strangers=measured["strangers"])
        head = tempered(trained.head, fitted.temperature)
        write_model(out / "model", engine.graph(cache.graphs_folder()), head, card)


def _finished(folder: Path, recipe: Recipe, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Metrics of a finished run; refused if it is not what this recipe and these pictures would give today."""
    from fingerspell.model import FORMAT

    try:
        card = json.loads((folder / "model" / "model.json").read_text("utf-8"))
        trained_on, backbone = card["trained_on"], card["backbone"]
        found = {
            "another form of the model": card["format"],
            "other features": (backbone.get("version"), card.get("hands")),
            "another training": trained_on.get("training"),
            "another file of --weights or --hand-model, or none noted": trained_on.get("files", {}),
            "other pictures": trained_on["pictures_sha256"],
            "another split": (folder / "split.csv").read_text("utf-8"),
        }
        value = _other_value(tomllib.loads((folder / "recipe.toml").read_text("utf-8")), recipe)
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    except DAMAGE as error:
        raise RunError(f"{folder}: the finished run there cannot be read ({error}). {_DELETE}") from error
    expected = {
        "another form of the model": FORMAT,
        "other features": steps.features_facts(recipe),
        "another training": _training(recipe),
        "another file of --weights or --hand-model, or none noted": _files(recipe),
        "other pictures": dataset.digest,
        "another split": split.to_csv(),
    }
    other = [f"another recipe ({value})"] if value else []
    if other := [*other, *(name for name, value in expected.items() if found[name] != value)]:
        raise RunError(f"{folder}: found a finished run with {other[0]}; expected one to go on from. {_DELETE}")
    return metrics


def _other_value(written: dict[str, Any], recipe: Recipe) -> str | None:
    """First value of a recipe that was written as another, in words; where its files are does not matter."""
    found, expected = (_flat(content) for content in (written, tomllib.loads(recipe.to_toml())))
    for name in sorted((found.keys() | expected.keys()) - {f"features.{file}" for file in _FILES}):
        if found.get(name) != expected.get(name):
            return f"{name} = {found.get(name)!r}, expected {expected.get(name)!r}"
    return None


def _files(recipe: Recipe) -> dict[str, str]:
    """Digests of the files that a recipe names for its features."""
    named = ((name, getattr(recipe.features, name), digest) for name, digest in _FILES.items())
    return {name: digest(Path(path)) for name, path, digest in named if path and Path(path).is_file()}


def _flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values of nested sections by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _training(recipe: Recipe) -> list[int]:
    """Versions of the code that the weights of a run depend on."""
    from fingerspell import training

    if not recipe.fine_tuning.enabled:
        return [training.VERSION]
    from fingerspell import finetuning, teaching

    return [training.VERSION, finetuning.VERSION, teaching.VERSION]


def _torchrun(name: str, alone: str) -> int:
    """What torchrun says to this process, or what holds for one that nobody started so."""
    found = os.environ.get(name) or alone
    if not found.isdecimal():
        raise TuningError(
            f"environment variable {name}: found {found!r}, expected the number that torchrun gives a process. Unset "
            "RANK and WORLD_SIZE to train in one process."
        )
    return int(found)


def clear_folder(folder: Path) -> None:
    """Take away what must not be taken for a part of the next result, should that be killed on its way."""
    model = folder / "model"
    whole = (model / "SHA256SUMS", model / "model.json")  # in this order: what is said to be whole is
    for stale in (folder / "report.html", *whole, *(folder / "figures").glob("*.png")):
        stale.unlink(missing_ok=True)


def _digest(recipe: Recipe, dataset: Dataset, split: Split, engine: Engine) -> str:
    """Digest of all that decides the run's numbers: recipe, pictures, who is where, features; no path of a file."""
    facts = asdict(recipe)
    facts["split"] = {name: v for name, v in facts["split"].items() if v is not None or name not in _NEWER}
    if not recipe.fine_tuning.enabled:  # a recipe keeps the digest it had before there was such a thing
        del facts["fine_tuning"]
    facts["head"] = {
        name: v for name, v in facts["head"].items() if recipe.head.kind in OF_HANDS or name not in OF_HANDS
    }
    hands = [engine.hands.engine.identity] if engine.hands else []
    facts["features"] = [engine.identity, recipe.features.mirrored, *hands]
    facts["split"]["groups"] = split.to_csv()
    text = json.dumps([facts, dataset.digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _recipe_digest(recipe: Recipe) -> str:
    """Digest of a recipe's values without the places of files, which mean nothing elsewhere."""
    facts = asdict(recipe)
    for section, name in (*(("features", name) for name in _FILES), ("split", "groups")):
        del facts[section][name]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_history(folder: Path, trained: Trained) -> None:
    """How the head was trained, if it was."""
    if trained.history:
        write_text(folder / "history.csv", csv_text(trained.history[0], (row.values() for row in trained.history)))
    else:
        (folder / "history.csv").unlink(missing_ok=True)  # of another recipe, before


def _write_results(folder: Path, archive: Archive, answers: Answers, summary: dict[str, Any], timing: str) -> None:
    """Everything that a run and an evaluation both leave, the report last."""
    from fingerspell.reporting import write_report

    evaluation.write(folder, answers, summary)
    write_text(folder / "timing.json", timing)
    write_report(folder, lambda name: decode(archive.read(name)).pixels)


def _trained_on(card: Card) -> str:
    """Archives that a model was trained on, in words."""
    held_out = card.trained_on.get("held_out")
    return f"{card.trained_on['archive']}{f' without {held_out}' if held_out else ''}"


def _unreadable(dataset: Dataset) -> int:
    """Pictures of letters that were left out because they cannot be read."""
    return sum(bool(p.problem) for p in dataset.pictures if p.label in LETTERS)


def _split_facts(split: Split, recipe: Recipe) -> dict[str, Any]:
    return {
        "protocol": recipe.split.protocol,
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "reference_leak": recipe.split.reference_leak,
        "duplicates_dropped": split.duplicates_dropped,
        "notes": list(split.notes),
    } | ({"held_out": recipe.split.held_out} if recipe.split.held_out and not recipe.split.groups else {})


def _card(
    name: str,
    labels: tuple[str, ...],
    recipe: Recipe,
    dataset: Dataset,
    engine: Engine,
    fitted: Calibration,
    summary: dict[str, Any],
) -> Card:
    from fingerspell.model import FORMAT, Card

    return Card(
        format=FORMAT,
        name=name,
        labels=labels,
        **engine.inputs(),
        backbone=json.loads(engine.identity),
        head=recipe.head.kind,
        trained_on={
            "archive": dataset.name,
            "pictures_sha256": dataset.digest,
            "recipe": recipe.name,
            "recipe_sha256": _recipe_digest(recipe),
            "training": _training(recipe),
        }
        | ({"files": files} if (files := _files(recipe)) else {})
        | summary["split"],
        scores=summary["scores"],
        **asdict(fitted),
        notes=(_LICENCES, *((_TUNED,) if recipe.fine_tuning.enabled else ())),
    )


def _with_parts(card: Card, archive: Archive, dataset: Dataset) -> Card:
    """Card that also has the digest of each of several archives, so that each is known again alone."""
    if not archive.parts:
        return card
    return replace(card, trained_on=card.trained_on | {"parts": {s: dataset.part(s).digest for s in archive.parts}})


def _timing(clock: _Clock, extraction: Extraction | None) -> str:
    """Seconds a stage; apart from the other files, which are the same in every run of one recipe."""
    work = asdict(extraction) if extraction else {}
    return json.dumps({"stages": {name: round(s, 3) for name, s in clock.seconds.items()}} | work, indent=1) + "\n"
