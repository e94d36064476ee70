"""The steps of a run on an archive, as its recipe wants them: who is where, what sees, what learns, what it answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fingerspell import cache, calibration, evaluation, splits
from fingerspell.alphabet import LETTERS, NON_LETTERS
from fingerspell.errors import DatasetError
from fingerspell.groups import groups_of
from fingerspell.hands import LOOKS, NAME, READER
from fingerspell.images import CONDITIONS, VIEWS
from fingerspell.neighbours import bursts
from fingerspell.recipes import OF_HANDS, is_taught, load_recipe, looks_for_hands, override
from fingerspell.truth import rendered_among, true_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    from fingerspell.model import Probabilities
    from fingerspell.progress import Progress
    from fingerspell.recipes import Recipe
    from fingerspell.splits import Split
    from fingerspell.teaching import Rows
    from fingerspell.training import Trained

_ENOUGH_TO_TEST = 5  # pictures a letter in a test folder, below which it is a sample and no test set


def choose_recipe(archive: Archive, dataset: Dataset, name: str | None, overrides: dict[str, Any] | None) -> Recipe:
    """Recipe of a name or file, or by the layout of the archive, with values in place of its own."""
    return override(load_recipe(name or recipe_for(archive, dataset)), overrides or {})


def recipe_for(archive: Archive, dataset: Dataset) -> str:
    """Name of the recipe that fits a data set's layout: one with its own test folder of some size is `synthetic`."""
    pictures = splits.measurable(dataset.pictures, rendered_of(archive, dataset.pictures))
    tests = [p for p in pictures if p.part == "test" and p.label in LETTERS]
    return "synthetic" if len(tests) >= _ENOUGH_TO_TEST * len({p.label for p in tests}) > 0 else "real"


def choose_split(archive: Archive, dataset: Dataset, recipe: Recipe) -> Split:
    """Who trains, validates and is tested on, of the pictures of letters.

    Raises
    ------
    DatasetError
        If there are pictures of one letter alone.
    SplitError
        As ``splits.split_pictures`` and ``groups.groups_of``.
    """
    pictures = dataset.letters()
    letters = {picture.label for picture in pictures}
    if len(letters) < 2:
        raise DatasetError(
            f"{dataset.name}: found pictures of {', '.join(letters)} alone; expected at least two letters to tell "
            "apart. Add folders of other letters."
        )
    options, groups = recipe.split, None
    if options.groups or options.per_group or options.protocol in ("groups", "leave-one-group-out"):
        groups = choose_groups(archive, pictures, recipe)
    rendered = rendered_of(archive, pictures)
    return splits.split_pictures(pictures, options, seed=recipe.seed, groups=groups, rendered=rendered)


def rendered_of(archive: Archive, pictures: Sequence[Picture]) -> frozenset[str]:
    """Ids of those pictures that were rendered."""
    return rendered_among(archive, [picture.id for picture in pictures])


def choose_groups(archive: Archive, pictures: Sequence[Picture], recipe: Recipe) -> dict[str, str]:
    """Group of each picture, by its id."""
    return groups_of(archive, [picture.id for picture in pictures], recipe.split.groups)


def choose_others(archive: Archive, dataset: Dataset, recipe: Recipe) -> tuple[splits.Pictures, splits.Pictures]:
    """Some pictures of no letter to choose the threshold with, and some to test it with, of other bursts.

    Where a group is held out its own test, and there are none to choose with.
    """
    held_out = recipe.split.held_out
    if held_out is not None:
        return (), evaluation.others_of([p for p in dataset.pictures if splits.is_within(p.id, held_out)])
    found = splits.measurable(dataset.pictures, rendered_of(archive, dataset.pictures))
    found = [p for p in found if p.label in NON_LETTERS and not p.problem]
    parts = bursts(found) % 2
    choosing, testing = (
        evaluation.others_of([p for p, own in zip(found, parts, strict=True) if own == part], evaluation.OTHERS // 2)
        for part in (1, 0)
    )
    return choosing, testing


def choose_spare_others(archive: Archive, dataset: Dataset, others: splits.Pictures, recipe: Recipe) -> splits.Pictures:
    """Good pictures of no letter to teach a reader with, unlike the ``others``; as many of a kind as of a letter.

    Signers are known of letters alone: where one of them may be tested, nobody knows whose the others are.
    """
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
    rendered = dict.fromkeys(rendered_of(archive, spare) - {p.id for p in others}, "rendered")
    filmed = [*others, *(p for p in spare if p.id not in rendered)]
    numbers = bursts(filmed)
    known = set(numbers[: len(others)])
    near = {p.id for p, number in zip(filmed, numbers, strict=True) if number in known}
    spare = [p for p in spare if p.id not in near]
    kept = set(splits.thinned(spare, options.per_group, rendered)) if options.per_group else set(spare)
    return tuple(p for p in spare if p in kept)


def _backbone(recipe: Recipe) -> Backbone:
    from fingerspell.backbones import load_backbone, untaught_reader

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

    if not looks_for_hands(recipe):
        return None
    return Hands(_hands_engine(recipe), crop=recipe.features.crop == "hand", joined=recipe.head.kind == "fusion")


def features_facts(recipe: Recipe) -> tuple[int | list[int] | None, dict[str, object] | None]:
    """Version of a backbone's features, and what those of the hands depend on, as a model's card has them."""
    from fingerspell.backbones import features_version

    name, found = recipe.features.backbone, _hands(recipe)
    return None if name == NAME else features_version(name), found.engine.detector.identity if found else None


def _hands_engine(recipe: Recipe) -> HandsEngine:
    from fingerspell.engines import HandsEngine
    from fingerspell.hands import open_detector

    file = recipe.features.hand_model
    return HandsEngine(open_detector(Path(file) if file else None))


def tune_backbone(
    archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress
) -> Backbone:
    """Backbone trained on the training pictures; those of validation and test are not looked at."""
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
        choose_groups(archive, split.train, recipe),
        recipe.fine_tuning,
        cache.tuned_folder(),
        seed=recipe.seed,
        on_progress=on_progress,
    )


def _hands_of(archive: Archive, pictures: splits.Pictures, recipe: Recipe, on_progress: Progress) -> Rows:
    """Where the hand of each picture is, (N, ``hands.ROW``): the truth where it is known, else what MediaPipe says."""
    from fingerspell.features import extract, open_store
    from fingerspell.finetuning import one_after_the_other

    rows = true_rows(archive, [picture.id for picture in pictures])
    if others := tuple(picture for picture in pictures if picture.id not in rows):
        teacher = _hands_engine(recipe)
        with open_store(cache.features_folder(), teacher) as store:
            with one_after_the_other():
                extract(archive, others, teacher, store, views=VIEWS[:1], on_progress=on_progress)
            found = store.load(others, VIEWS[:1])[:, 0]
        rows |= {picture.id: row for picture, row in zip(others, found, strict=True)}
    return np.stack([rows[picture.id] for picture in pictures])


def _fine_tune(archive: Archive, split: Split, recipe: Recipe, on_progress: Progress) -> Backbone:
    """Any other backbone, trained to tell the letters apart."""
    from fingerspell.engines import TorchEngine
    from fingerspell.features import extract, open_store
    from fingerspell.finetuning import fine_tune, one_after_the_other

    hands = _hands(recipe)
    engine = TorchEngine(_backbone(recipe), replace(hands, joined=False) if hands else None)  # it learns of one look
    with open_store(cache.features_folder(), engine) as store:
        if hands and store.hands:
            with one_after_the_other():
                extract(archive, split.train, hands.engine, store.hands, views=VIEWS[:1], on_progress=on_progress)
        return fine_tune(
            engine,
            archive,
            split.train,
            recipe.fine_tuning,
            cache.tuned_folder(),
            hands=store.hands,
            groups=choose_groups(archive, split.train, recipe),
            seed=recipe.seed,
            on_progress=on_progress,
        )


def choose_engine(
    archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress
) -> Engine:
    """What gives the features: the points of hands, or a backbone, fine-tuned first if the recipe says so."""
    from fingerspell.engines import open_engine

    features, hands = recipe.features, _hands(recipe)
    if hands and features.backbone == NAME:
        return hands.engine
    if recipe.fine_tuning.enabled:
        backbone = tune_backbone(archive, split, spare, recipe, on_progress)
    else:
        backbone = _backbone(recipe)
    return open_engine(
        backbone, cache.graphs_folder(), engine=features.engine, precision=features.precision, hands=hands
    )


def extract_features(
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

    wanted = [
        (split.train, _training_views(recipe)),
        (split.validation, VIEWS[:1]),
        (split.test, VIEWS[:1]),
        (others, VIEWS[:1]),
        (_condition_pictures(split), CONDITIONS),
    ]
    done = Extraction()
    if store.hands and engine.hands and _answers_itself(recipe):  # the points of training pictures alone are learnt
        search = engine.hands.engine
        done += extract(archive, split.train, search, store.hands, views=VIEWS[:1], on_progress=on_progress)
    for pictures, views in wanted:
        done += extract(archive, pictures, engine, store, views=views, on_progress=on_progress)
    return done


def _answers_itself(recipe: Recipe) -> bool:
    """Whether the backbone names the letters, alone or beside the points, so that no head learns from its features."""
    return recipe.features.backbone == READER and recipe.head.kind in ("own", "fusion")


def _training_views(recipe: Recipe) -> tuple[View, ...]:
    """Views that the head learns from; none if the backbone answers itself.

    A hand that was looked for is mirrored to a right one as it is.
    """
    if _answers_itself(recipe):
        return ()
    one_side = recipe.features.backbone == NAME or recipe.features.crop or recipe.head.kind == "fusion"
    return VIEWS if recipe.features.mirrored and not one_side else VIEWS[:1]


def train_head(archive: Archive, store: FeatureStore, split: Split, recipe: Recipe, on_progress: Progress) -> Trained:
    """Head trained on train and validation; test pictures are not looked at."""
    from fingerspell.heads import FusionHead, own_head
    from fingerspell.training import Examples, Trained, train_linear, train_mlp, train_points

    labels = split.labels
    if recipe.head.kind == "own":
        return Trained(own_head(store.dimension, labels), [])
    own = own_head(store.dimension // LOOKS, labels) if _answers_itself(recipe) else None  # beside points, a look's
    seen = store.hands if own and store.hands else store  # beside such answers the points alone are learnt

    def examples(pictures: splits.Pictures, features: NDArray[np.float32]) -> Examples:
        return Examples(features, np.array([labels.index(p.label) for p in pictures], np.int64))

    views = VIEWS[:1] if own else _training_views(recipe)
    shown = _shown(archive, split, recipe)
    train_on = examples(shown, seen.load(shown, views))
    choose_on = examples(split.validation, seen.load(split.validation, VIEWS[:1]))
    if recipe.head.kind in OF_HANDS:
        trained = train_points(
            train_on,
            choose_on,
            classes=len(labels),
            options=recipe.head.points,
            fusion=recipe.head.fusion if recipe.head.kind == "fusion" and not own else None,
            seed=recipe.seed,
            on_progress=on_progress,
        )
        if not own:
            return trained
        head = FusionHead(cast("PointsHead", trained.head), own, recipe.head.fusion.points_weight)
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


def _shown(archive: Archive, split: Split, recipe: Recipe) -> splits.Pictures:
    """Training pictures, as often as an epoch shows each: beside people's, points of rendered hands twice."""
    rendered = rendered_of(archive, split.train) if recipe.head.kind in OF_HANDS else frozenset()
    again = [p for p in split.train if p.id in rendered]
    return split.train if len(again) == len(split.train) else (*split.train, *again)  # twice: docs/trials.md


def calibrate(store: FeatureStore, split: Split, others: splits.Pictures, head: nn.Module, risk: float) -> Calibration:
    """Temperature and threshold from the validation pictures, and from some of no letter."""
    import torch

    from fingerspell.heads import probabilities

    def answers(pictures: splits.Pictures) -> Probabilities:
        return probabilities(head, torch.from_numpy(store.load(pictures, VIEWS[:1])[:, 0])).numpy()

    targets = np.array([split.labels.index(p.label) for p in split.validation], np.int64)
    return calibration.fit(answers(split.validation), targets, risk, on_others=answers(others))


def answer(store: FeatureStore, split: Split, others: splits.Pictures, head: nn.Module) -> Answers:
    """Look at the test pictures, and at those of no letter, once, when the head is done."""
    import torch

    from fingerspell.heads import probabilities

    def answers(pictures: splits.Pictures, views: tuple[View, ...]) -> dict[View, Probabilities]:
        features = torch.from_numpy(store.load(pictures, views))
        return {view: probabilities(head, features[:, column]).numpy() for column, view in enumerate(views)}

    original, on_others = (answers(pictures, VIEWS[:1])["original"] for pictures in (split.test, others))
    conditions = answers(_condition_pictures(split), CONDITIONS)
    return evaluation.Answers(split.test, split.labels, original, conditions, others, on_others)


def _condition_pictures(split: Split) -> splits.Pictures:
    return tuple(split.test[row] for row in evaluation.condition_sample(split.test))
