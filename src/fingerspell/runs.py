"""A run: one pass from an archive to a folder with a model and its report."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fingerspell import cache, evaluation, inspection, splits
from fingerspell.alphabet import LETTERS, NON_LETTERS
from fingerspell.archive import open_archive, open_archives
from fingerspell.dataset import scan
from fingerspell.errors import DatasetError, RunError
from fingerspell.files import csv_text, is_temporary, write_text
from fingerspell.groups import groups_of
from fingerspell.images import decode
from fingerspell.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fingerspell.archive import Archive
    from fingerspell.backbones import Backbone
    from fingerspell.calibration import Calibration
    from fingerspell.dataset import Dataset, Picture
    from fingerspell.engines import Engine, Hands, HandsEngine
    from fingerspell.evaluation import Answers
    from fingerspell.features import Extraction, FeatureStore
    from fingerspell.heads import PointsHead
    from fingerspell.images import View
    from fingerspell.model import Card, Model, Probabilities
    from fingerspell.progress import Progress
    from fingerspell.recipes import Recipe
    from fingerspell.splits import Split
    from fingerspell.training import Trained

_LICENCES = "The licences of the training pictures and of the pretrained weights may bind this model too: check them."
_NEWER = ("held_out", "per_group")  # values of a split; without them a recipe keeps the digest it had before them
_TUNED = "The whole network was fine-tuned on the training pictures."
_OF_HANDS = ("points", "fusion")  # heads that read the points of a hand, whose options no other head needs
_ENOUGH_TO_TEST = 5  # pictures a letter in a test folder, below which it is a sample and no test set


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


def recipe_for(archive: Archive, dataset: Dataset) -> str:
    """Name of the recipe that fits a data set's layout: one with its own test folder of some size is `synthetic`."""
    pictures = splits.measurable(dataset.pictures, _rendered(archive, dataset.pictures))
    tests = [p for p in pictures if p.part == "test" and p.label in LETTERS]
    return "synthetic" if len(tests) >= _ENOUGH_TO_TEST * len({p.label for p in tests}) > 0 else "real"


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
        Take over what ``out`` holds, as it is, if that is a finished run of this recipe and these pictures.
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
    from fingerspell.neighbours import has_near_copy
    from fingerspell.precision import cost_notes, measure_cost
    from fingerspell.recipes import load_recipe, override

    clock = _Clock()
    with open_archives(source) as archive:
        with clock.stage("scan"):
            dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        chosen = override(load_recipe(recipe or recipe_for(archive, dataset)), overrides or {})
        split, others = _split(archive, dataset, chosen), _others(archive, dataset, chosen)
        if keep and out and not overwrite and _is_done(Path(out), chosen, split):
            return Run(Path(out), json.loads((Path(out) / "metrics.json").read_text("utf-8")), clock.seconds)
        if chosen.fine_tuning.enabled and out:
            _prepare_folder(Path(out), kind="run", overwrite=overwrite)  # before hours of training
        with clock.stage("backbone"):
            spare = _spare_others(archive, dataset, others, chosen)
            engine = _engine(archive, split, spare, chosen, on_progress)
        default = Path("runs") / f"{chosen.name}-{_digest(chosen, dataset, split, engine)[:8]}"
        folder = Path(out) if out else default
        _prepare_folder(folder, kind="run", overwrite=overwrite)
        write_text(folder / "recipe.toml", chosen.to_toml())
        write_text(folder / "split.csv", split.to_csv())
        with open_store(cache.features_folder(), engine) as store:
            with clock.stage("features"):
                extraction = _extract(archive, split, others, engine, store, chosen, on_progress)
            with clock.stage("head"):
                trained = _train_head(archive, store, split, chosen, on_progress)
                fitted = _calibrate(store, split, trained.head, chosen.risk)
                head = tempered(trained.head, fitted.temperature)
                answers = _answers(store, split, others, head)
            with clock.stage("precision"):
                precision = measure_cost(archive, split.test, engine, store, head)
        _write_history(folder, trained)
        summary = evaluation.summarise(
            answers,
            fitted,
            [*inspection.notes(dataset), *cost_notes(precision)],
            trained.history,
            # What is near to a rendered picture is so by chance.
            leaked=has_near_copy(split.test, splits.measurable(split.train, _rendered(archive, split.train))),
            model=folder.name,
            measured_on=f"{len(split.test):,} test pictures of {dataset.name}, split {chosen.split.protocol}",
            split=_split_facts(split, chosen),
            features=precision,
            unreadable=_unreadable(dataset),
        )
        with clock.stage("export"):
            card = _card(folder.name, answers.labels, chosen, dataset, engine, fitted, summary)
            card = _with_parts(card, archive, dataset)
            write_model(folder / "model", engine.graph(cache.graphs_folder()), head, card)
        _write_results(folder, archive, answers, summary, _timing(clock, extraction))
    return Run(folder, summary, clock.seconds, extraction)


def is_helper() -> bool:
    """Whether this process only helps another to train: its rank, as ``accelerate launch`` and torchrun number them."""
    return int(os.environ.get("RANK", "0")) > 0


def help_to_train(
    source: Path | str | Sequence[Path | str], *, recipe: str | None = None, overrides: dict[str, Any] | None = None
) -> None:
    """Do this process's part of the fine-tuning of ``train``, which another process runs with the same arguments."""
    from fingerspell.recipes import load_recipe, override

    with open_archives(source) as archive:
        dataset = scan(archive, memory=cache.scans_folder())
        chosen = override(load_recipe(recipe or recipe_for(archive, dataset)), overrides or {})
        if chosen.fine_tuning.enabled:
            spare = _spare_others(archive, dataset, _others(archive, dataset, chosen), chosen)
            _tuned_backbone(archive, _split(archive, dataset, chosen), spare, chosen, silent)


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
        folder = Path(out) if out else Path("runs") / f"{model.card.name}-on-{Path(dataset.name).stem}"
        _prepare_folder(folder, kind="evaluation", overwrite=overwrite)
        with clock.stage("recognition"):
            answers = evaluation.answer(
                model, archive, pictures, evaluation.others_of(dataset), on_progress=on_progress
            )
        summary = evaluation.summarise(
            answers,
            Calibration(model.card.temperature, model.card.threshold, model.card.risk),
            inspection.notes(dataset),
            model=model.card.name,
            measured_on=f"{len(pictures):,} pictures of {dataset.name}, trained on {model.card.trained_on['archive']}",
            unreadable=_unreadable(dataset),
        )
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
        groups = _groups(archive, pictures, chosen)
        split = splits.everybody(pictures, chosen.split, groups, _rendered(archive, pictures))
        engine = _engine(archive, split, _spare_others(archive, dataset, (), chosen), chosen, on_progress)
        write_text(out / "recipe.toml", chosen.to_toml())
        write_text(out / "split.csv", split.to_csv())
        with open_store(cache.features_folder(), engine) as store:
            _extract(archive, split, (), engine, store, chosen, on_progress)
            trained = _train_head(archive, store, split, chosen, on_progress)
        _write_history(out, trained)
        summary = {"split": _split_facts(split, chosen) | measured["trained_on"], "scores": measured["scores"]}
        card = _card(out.name, split.labels, chosen, dataset, engine, fitted, summary)
        card = replace(_with_parts(card, archive, dataset), strangers=measured["strangers"])
        head = tempered(trained.head, fitted.temperature)
        write_model(out / "model", engine.graph(cache.graphs_folder()), head, card)


def _split(archive: Archive, dataset: Dataset, recipe: Recipe) -> Split:
    pictures = dataset.letters()
    letters = {picture.label for picture in pictures}
    if len(letters) < 2:
        raise DatasetError(
            f"{dataset.name}: found pictures of {', '.join(letters)} alone; expected at least two letters to tell "
            "apart. Add folders of other letters."
        )
    options, groups = recipe.split, None
    if options.groups or options.per_group or options.protocol in ("groups", "leave-one-group-out"):
        groups = _groups(archive, pictures, recipe)
    rendered = _rendered(archive, pictures)
    return splits.split_pictures(pictures, options, seed=recipe.seed, groups=groups, rendered=rendered)


def _rendered(archive: Archive, pictures: Sequence[Picture]) -> frozenset[str]:
    from fingerspell.truth import rendered_among

    return rendered_among(archive, [picture.id for picture in pictures])


def _groups(archive: Archive, pictures: Sequence[Picture], recipe: Recipe) -> dict[str, str]:
    return groups_of(archive, [picture.id for picture in pictures], recipe.split.groups)


def _others(archive: Archive, dataset: Dataset, recipe: Recipe) -> splits.Pictures:
    """Some pictures of no letter: of the group that is held out, if one is."""
    held_out = recipe.split.held_out
    if held_out is None:
        own = splits.measurable(dataset.pictures, _rendered(archive, dataset.pictures))
    else:
        own = [picture for picture in dataset.pictures if splits.is_within(picture.id, held_out)]
    return evaluation.others_of(replace(dataset, pictures=tuple(own)))


def _is_done(folder: Path, recipe: Recipe, split: Split) -> bool:
    """Whether a folder holds a finished run of this recipe and these pictures, with all that is written today.

    And of this version of the features: another one answers otherwise.
    """
    from fingerspell.backbones import features_version
    from fingerspell.hands import NAME
    from fingerspell.model import FORMAT

    expected = {"recipe.toml": recipe.to_toml(), "split.csv": split.to_csv()}
    there = [folder / "report.html", folder / "probabilities.npz", *(folder / name for name in expected)]
    if not all(path.exists() for path in there):
        return False
    name, card = recipe.features.backbone, json.loads((folder / "model" / "model.json").read_text("utf-8"))
    if card["format"] != FORMAT:
        return False
    if name != NAME and card["backbone"]["version"] != features_version(name):
        return False
    return all((folder / name).read_text("utf-8") == text for name, text in expected.items())


def _backbone(recipe: Recipe) -> Backbone:
    from fingerspell.backbones import load_backbone, untaught_reader
    from fingerspell.hands import READER

    features = recipe.features
    if features.backbone == READER and not features.weights:
        return untaught_reader()
    return load_backbone(
        features.backbone,
        weights=Path(features.weights) if features.weights else None,
        size=features.size,
        interpolation=features.interpolation,
        input_scale=features.input_scale,
        memory=cache.graphs_folder(),
    )


def _hands(recipe: Recipe) -> Hands | None:
    """What is done with the points of the hands; None where nothing looks for hands."""
    from fingerspell.engines import Hands
    from fingerspell.recipes import looks_for_hands

    if not looks_for_hands(recipe):
        return None
    return Hands(_search(recipe), crop=recipe.features.crop == "hand", joined=recipe.head.kind == "fusion")


def _search(recipe: Recipe) -> HandsEngine:
    from fingerspell.engines import HandsEngine
    from fingerspell.hands import open_detector

    file = recipe.features.hand_model
    return HandsEngine(open_detector(Path(file) if file else None))


def _tuned_backbone(
    archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress
) -> Backbone:
    """Backbone trained on the training pictures; validation and test pictures never come here."""
    from fingerspell.recipes import is_taught

    if is_taught(recipe):
        return _teach(archive, split, spare, recipe, on_progress)
    return _fine_tune(archive, split, recipe, on_progress)


def _teach(archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress) -> Backbone:
    """Reader taught with the training pictures and spare ones of no letter."""
    from fingerspell.teaching import teach

    pictures = (*split.train, *spare)
    return teach(
        _backbone(recipe),
        archive,
        pictures,
        _hands_of(archive, pictures, recipe, on_progress),
        _groups(archive, split.train, recipe),
        recipe.fine_tuning,
        cache.tuned_folder(),
        seed=recipe.seed,
        on_progress=on_progress,
    )


def _hands_of(
    archive: Archive, pictures: splits.Pictures, recipe: Recipe, on_progress: Progress
) -> NDArray[np.float32]:
    """Where the hand of each picture is, (N, ``hands.ROW``): the truth where it is known, else what MediaPipe says."""
    from fingerspell.features import extract, open_store
    from fingerspell.images import VIEWS

    def searched(others: splits.Pictures) -> NDArray[np.float32]:
        teacher = _search(recipe)
        with open_store(cache.features_folder(), teacher) as store:
            extract(archive, others, teacher, store, views=VIEWS[:1], on_progress=on_progress)
            return store.load(others, VIEWS[:1])[:, 0]

    return _rows(archive, pictures, searched)


def _to_search(archive: Archive, pictures: splits.Pictures) -> splits.Pictures:
    """Pictures of which nobody knows where the hand is."""
    from fingerspell.truth import true_rows

    known = true_rows(archive, [picture.id for picture in pictures])
    return tuple(picture for picture in pictures if picture.id not in known)


def _rows(
    archive: Archive, pictures: splits.Pictures, searched: Callable[[splits.Pictures], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Rows of pictures (N, ``hands.ROW``): the truth where it is known, else what is found when they are searched."""
    from fingerspell.truth import true_rows

    rows = true_rows(archive, [picture.id for picture in pictures])
    others = tuple(picture for picture in pictures if picture.id not in rows)
    if others:
        rows |= {picture.id: row for picture, row in zip(others, searched(others), strict=True)}
    return np.stack([rows[picture.id] for picture in pictures])


def _spare_others(archive: Archive, dataset: Dataset, others: splits.Pictures, recipe: Recipe) -> splits.Pictures:
    """Good pictures of no letter that nothing like is measured on, as many of each kind as of a letter, for a reader.

    Signers are known of letters alone: where one of them may be tested, nobody knows whose the others are.
    """
    from fingerspell.neighbours import has_near_copy
    from fingerspell.recipes import is_taught

    options = recipe.split
    if not is_taught(recipe):
        return ()
    if options.groups or options.protocol == "groups" or (options.held_out and not archive.parts):
        return ()
    home = (options.held_out or "").partition("/")[0]  # the archive of who is held out
    spare = [
        p
        for p in dataset.pictures
        if p.label in NON_LETTERS
        and not p.problem
        and not (home and splits.is_within(p.id, home))
        and not (options.protocol == "folders" and p.part == "test")
    ]
    # What is near to a rendered picture is so by chance.
    rendered = dict.fromkeys(_rendered(archive, spare) - {p.id for p in others}, "rendered")
    known = has_near_copy(spare, others)
    spare = [p for p, near in zip(spare, known, strict=True) if not near or p.id in rendered]
    kept = set(splits.thinned(spare, options.per_group, rendered)) if options.per_group else set(spare)
    return tuple(p for p in spare if p in kept)


def _fine_tune(archive: Archive, split: Split, recipe: Recipe, on_progress: Progress) -> Backbone:
    """Any other backbone, trained to tell the letters apart."""
    from fingerspell.engines import TorchEngine
    from fingerspell.features import extract, open_store
    from fingerspell.finetuning import fine_tune
    from fingerspell.images import VIEWS

    hands = _hands(recipe)
    engine = TorchEngine(_backbone(recipe), replace(hands, joined=False) if hands else None)  # it learns of one look
    with open_store(cache.features_folder(), engine) as store:
        if hands and store.hands:
            extract(archive, split.train, hands.engine, store.hands, views=VIEWS[:1], on_progress=on_progress)
        return fine_tune(
            engine,
            archive,
            split.train,
            recipe.fine_tuning,
            cache.tuned_folder(),
            hands=store.hands,
            groups=_groups(archive, split.train, recipe),
            seed=recipe.seed,
            on_progress=on_progress,
        )


def _engine(archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress) -> Engine:
    """What gives the features: the points of hands, or a backbone, fine-tuned first if the recipe says so."""
    from fingerspell.engines import open_engine
    from fingerspell.hands import NAME

    features, hands = recipe.features, _hands(recipe)
    if hands and features.backbone == NAME:
        return hands.engine
    if recipe.fine_tuning.enabled:
        backbone = _tuned_backbone(archive, split, spare, recipe, on_progress)
    else:
        backbone = _backbone(recipe)
    return open_engine(
        backbone, cache.graphs_folder(), engine=features.engine, precision=features.precision, hands=hands
    )


def _extract(
    archive: Archive,
    split: Split,
    others: splits.Pictures,
    engine: Engine,
    store: FeatureStore,
    recipe: Recipe,
    on_progress: Progress,
) -> Extraction:
    """Features of every picture in every view that this run looks at, and no other."""
    from fingerspell.features import Extraction, extract
    from fingerspell.images import CONDITIONS, VIEWS

    learnt = _to_search(archive, split.train) if _learns_points(recipe) else split.train
    wanted = [
        (learnt, _training_views(recipe)),
        (split.validation, VIEWS[:1]),
        (split.test, VIEWS[:1]),
        (others, VIEWS[:1]),
        (_condition_pictures(split), CONDITIONS),
    ]
    done = Extraction()
    if store.hands and engine.hands and _answers_itself(recipe):  # the points of training pictures alone are learnt
        search = engine.hands.engine
        done += extract(archive, learnt, search, store.hands, views=VIEWS[:1], on_progress=on_progress)
    for pictures, views in wanted:
        done += extract(archive, pictures, engine, store, views=views, on_progress=on_progress)
    return done


def _answers_itself(recipe: Recipe) -> bool:
    """Whether the backbone names the letters, alone or beside the points, so that no head learns from its features."""
    from fingerspell.hands import READER

    return recipe.features.backbone == READER and recipe.head.kind in ("own", "fusion")


def _learns_points(recipe: Recipe) -> bool:
    """Whether the points of hands are all that the head learns from, so that the truth about rendered ones will do."""
    from fingerspell.hands import NAME

    return recipe.features.backbone == NAME or (_answers_itself(recipe) and recipe.head.kind == "fusion")


def _training_views(recipe: Recipe) -> tuple[View, ...]:
    """Views that the head learns from. A hand that was looked for is mirrored to a right one as it is."""
    from fingerspell.hands import NAME
    from fingerspell.images import VIEWS

    if _answers_itself(recipe):
        return ()

    one_side = recipe.features.backbone == NAME or recipe.features.crop or recipe.head.kind == "fusion"
    return VIEWS if recipe.features.mirrored and not one_side else VIEWS[:1]


def _train_head(archive: Archive, store: FeatureStore, split: Split, recipe: Recipe, on_progress: Progress) -> Trained:
    """Head trained on train and validation; test pictures never come here."""
    from fingerspell.hands import LOOKS
    from fingerspell.heads import FusionHead, own_head
    from fingerspell.images import VIEWS
    from fingerspell.training import Examples, Trained, train_linear, train_mlp, train_points

    labels = split.labels
    if recipe.head.kind == "own":
        return Trained(own_head(store.dimension, labels), [])
    itself = own_head(store.dimension // LOOKS, labels) if _answers_itself(recipe) else None  # beside points, a look's
    seen = store.hands if itself and store.hands else store  # beside such answers the points alone are learnt

    def examples(pictures: splits.Pictures, features: NDArray[np.float32]) -> Examples:
        return Examples(features, np.array([labels.index(p.label) for p in pictures], np.int64))

    if _learns_points(recipe):
        learnt = _rows(archive, split.train, lambda others: seen.load(others, VIEWS[:1])[:, 0])[:, None]
    else:
        learnt = seen.load(split.train, _training_views(recipe))
    train_on = examples(split.train, learnt)
    choose_on = examples(split.validation, seen.load(split.validation, VIEWS[:1]))
    if recipe.head.kind in _OF_HANDS:
        trained = train_points(
            train_on,
            choose_on,
            classes=len(labels),
            options=recipe.head.points,
            fusion=recipe.head.fusion if recipe.head.kind == "fusion" and not itself else None,
            seed=recipe.seed,
            on_progress=on_progress,
        )
        if not itself:
            return trained
        head = FusionHead(cast("PointsHead", trained.head), itself, recipe.head.fusion.points_weight)
        return Trained(head.eval(), [])  # what the points learnt is not the history of what is scored
    if recipe.head.kind == "mlp":
        return train_mlp(
            train_on,
            choose_on,
            classes=len(labels),
            options=recipe.head.mlp,
            seed=recipe.seed,
            on_progress=on_progress,
        )
    return train_linear(train_on, choose_on, classes=len(labels), options=recipe.head.linear, on_progress=on_progress)


def _calibrate(store: FeatureStore, split: Split, head: nn.Module, risk: float) -> Calibration:
    """Temperature and threshold from the validation pictures."""
    import torch

    from fingerspell import calibration
    from fingerspell.heads import probabilities
    from fingerspell.images import VIEWS

    features = torch.from_numpy(store.load(split.validation, VIEWS[:1])[:, 0])
    targets = np.array([split.labels.index(p.label) for p in split.validation], np.int64)
    return calibration.fit(probabilities(head, features).numpy(), targets, risk)


def _answers(store: FeatureStore, split: Split, others: splits.Pictures, head: nn.Module) -> Answers:
    """Look at the test pictures, and at those of no letter, once, when the head is done."""
    import torch

    from fingerspell.heads import probabilities
    from fingerspell.images import CONDITIONS, VIEWS

    def answers(pictures: splits.Pictures, views: tuple[View, ...]) -> dict[View, Probabilities]:
        features = torch.from_numpy(store.load(pictures, views))
        return {view: probabilities(head, features[:, column]).numpy() for column, view in enumerate(views)}

    original, on_others = (answers(pictures, VIEWS[:1])["original"] for pictures in (split.test, others))
    conditions = answers(_condition_pictures(split), CONDITIONS)
    return evaluation.Answers(split.test, split.labels, original, conditions, others, on_others)


def _condition_pictures(split: Split) -> splits.Pictures:
    return tuple(split.test[row] for row in evaluation.condition_sample(split.test))


def _prepare_folder(folder: Path, *, kind: str, overwrite: bool) -> None:
    """Make way for a run or an evaluation, or take over what an unfinished one left.

    The report is written last and so marks a finished one. Only a run has a recipe.
    """
    there = [path for path in folder.iterdir() if not is_temporary(path)] if folder.exists() else []
    if not there:
        return
    report = folder / "report.html"
    is_run, is_evaluation = (folder / "recipe.toml").exists(), (folder / "metrics.json").exists()
    found = "run" if is_run else "evaluation" if is_evaluation else "neither a run nor an evaluation"
    if found != kind:
        raise RunError(
            f"{folder}: this folder holds something else ({there[0].name}, ...): found {found}, expected {kind}. "
            "Choose another folder with --out; nothing was changed."
        )
    if report.exists() and not overwrite:
        raise RunError(
            f"{folder}: a finished {kind} is already there; see {report}. "
            "To do it again give --overwrite, to keep both give another --out."
        )
    for stale in (report, *(folder / "figures").glob("*.png")):  # a figure that the new run lacks must not stay
        stale.unlink(missing_ok=True)


def _digest(recipe: Recipe, dataset: Dataset, split: Split, engine: Engine) -> str:
    """Digest of all that decides the run's numbers: recipe, pictures, who is where, features; no path of a file."""
    facts = asdict(recipe)
    facts["split"] = {name: v for name, v in facts["split"].items() if v is not None or name not in _NEWER}
    if not recipe.fine_tuning.enabled:  # a recipe keeps the digest it had before there was such a thing
        del facts["fine_tuning"]
    facts["head"] = {
        name: v for name, v in facts["head"].items() if recipe.head.kind in _OF_HANDS or name not in _OF_HANDS
    }
    hands = [engine.hands.engine.identity] if engine.hands else []
    facts["features"] = [engine.identity, recipe.features.mirrored, *hands]
    facts["split"]["groups"] = split.to_csv()
    text = json.dumps([facts, dataset.digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _recipe_digest(recipe: Recipe) -> str:
    """Digest of a recipe's values without the places of files, which mean nothing elsewhere."""
    facts = asdict(recipe)
    for section, name in (("features", "weights"), ("features", "hand_model"), ("split", "groups")):
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
    }


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
        }
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
