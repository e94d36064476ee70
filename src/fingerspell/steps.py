"""The steps of a run on an archive, as its recipe wants them: who is where, what sees, what learns, what it answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from fingerspell import cache, evaluation, splits
from fingerspell.alphabet import NON_LETTERS
from fingerspell.errors import DatasetError
from fingerspell.groups import groups_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    from fingerspell.training import Trained


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
    from fingerspell.truth import rendered_among

    return rendered_among(archive, [picture.id for picture in pictures])


def choose_groups(archive: Archive, pictures: Sequence[Picture], recipe: Recipe) -> dict[str, str]:
    """Group of each picture, by its id."""
    return groups_of(archive, [picture.id for picture in pictures], recipe.split.groups)


def choose_others(archive: Archive, dataset: Dataset, recipe: Recipe) -> splits.Pictures:
    """Some pictures of no letter: of the group that is held out, if one is."""
    held_out = recipe.split.held_out
    if held_out is None:
        own = splits.measurable(dataset.pictures, rendered_of(archive, dataset.pictures))
    else:
        own = [picture for picture in dataset.pictures if splits.is_within(picture.id, held_out)]
    return evaluation.others_of(replace(dataset, pictures=tuple(own)))


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


def tune_backbone(
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
        choose_groups(archive, split.train, recipe),
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


def choose_spare_others(archive: Archive, dataset: Dataset, others: splits.Pictures, recipe: Recipe) -> splits.Pictures:
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
    rendered = dict.fromkeys(rendered_of(archive, spare) - {p.id for p in others}, "rendered")
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
            groups=choose_groups(archive, split.train, recipe),
            seed=recipe.seed,
            on_progress=on_progress,
        )


def choose_engine(
    archive: Archive, split: Split, spare: splits.Pictures, recipe: Recipe, on_progress: Progress
) -> Engine:
    """What gives the features: the points of hands, or a backbone, fine-tuned first if the recipe says so."""
    from fingerspell.engines import open_engine
    from fingerspell.hands import NAME

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


def train_head(archive: Archive, store: FeatureStore, split: Split, recipe: Recipe, on_progress: Progress) -> Trained:
    """Head trained on train and validation; test pictures never come here."""
    from fingerspell.hands import LOOKS
    from fingerspell.heads import FusionHead, own_head
    from fingerspell.images import VIEWS
    from fingerspell.recipes import OF_HANDS
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
    if recipe.head.kind in OF_HANDS:
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


def calibrate(store: FeatureStore, split: Split, head: nn.Module, risk: float) -> Calibration:
    """Temperature and threshold from the validation pictures."""
    import torch

    from fingerspell import calibration
    from fingerspell.heads import probabilities
    from fingerspell.images import VIEWS

    features = torch.from_numpy(store.load(split.validation, VIEWS[:1])[:, 0])
    targets = np.array([split.labels.index(p.label) for p in split.validation], np.int64)
    return calibration.fit(probabilities(head, features).numpy(), targets, risk)


def answer(store: FeatureStore, split: Split, others: splits.Pictures, head: nn.Module) -> Answers:
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
