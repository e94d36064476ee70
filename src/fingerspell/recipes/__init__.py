"""Recipes: every number of a run, one frozen dataclass a stage.

``real`` and ``synthetic`` (the .toml files beside this one) are the two runs of the reference study. A recipe file may
leave out what has a default here; the one that a run writes down is complete.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, field
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fingerspell.errors import RecipeError
from fingerspell.hands import NAME, READER
from fingerspell.images import Interpolation

Protocol = Literal["first-per-class", "folders", "random", "blocks", "bursts", "groups", "leave-one-group-out"]
InputScale = Literal["native", "unit"]
EngineKind = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]
HeadKind = Literal["mlp", "linear", "points", "fusion", "own"]
OF_HANDS: tuple[HeadKind, ...] = ("points", "fusion")  # read the points of a hand; no other head needs their options
Crop = Literal["hand"]

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class SplitOptions:
    """How pictures are divided into train, validation and test; see ``splits.py`` for the protocols."""

    protocol: Protocol = "first-per-class"
    test_per_class: Count = 100  # first-per-class
    folds: Annotated[int, Field(ge=2)] = 5  # random, blocks, bursts, groups: the test set is one of so many parts
    fold: Annotated[int, Field(ge=0)] = 0  # ... this one
    guard: Annotated[int, Field(ge=0)] | None = None  # blocks: frames left out on each side of a cut; None: measured
    groups: str | None = None  # FILE.csv or FILE.csv:COLUMN, on disk or in the archive; None: archives and signers.csv
    held_out: str | None = None  # leave-one-group-out: the group that is tested, with those below it
    per_group: Count | None = None  # pictures of each letter and group to train with, evenly spread; None: all
    sample: Count | None = (
        None  # of people, drawn to train and, where the protocol sets none aside, validate; None: all
    )
    validation: Share = 0.2
    reference_leak: bool = False  # first-per-class: leave the test pictures in the pool, as the study's code did


@dataclass(frozen=True, config=_STRICT)
class FeatureOptions:
    """Which backbone sees the pictures, and how; None for the backbone's own."""

    backbone: str = "vgg16"
    weights: str | None = None  # safetensors file; None: timm's hub, or the installed package
    size: Annotated[int, Field(ge=16, le=2048)] | None = None
    interpolation: Interpolation | None = None
    input_scale: InputScale = "native"
    engine: EngineKind | None = None  # what runs the backbone; None: the fastest on this machine
    precision: Precision | None = None  # of the features; None: the fastest that is as good as float32
    mirrored: bool = True  # train on mirrored views too, which stand for the other hand, where no hand is looked for
    crop: Crop | None = None  # "hand": the network sees the hand alone, mirrored to a right one; None: all
    hand_model: str | None = None  # MediaPipe's model file, for all that looks for hands; None: fetched once


@dataclass(frozen=True, config=_STRICT)
class FineTuningOptions:
    """Whether and how the whole backbone is trained before it gives features; see ``finetuning.py``."""

    enabled: bool = False
    epochs: Count = 3
    batch_size: Annotated[int, Field(ge=2)] = 64  # of all processes together
    learning_rate: Positive | None = None  # of the last layers, at its height; None: as the network's layers bear
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9  # each layer nearer to the pictures learns so much slower
    rotation: Annotated[float, Field(ge=0, le=45)] = 20.0  # degrees to either side; K and P differ by their turn
    mirrored: bool = True  # show mirrored hands too
    precision: Literal["float32", "bfloat16"] | None = None  # None: the faster one on this machine


@dataclass(frozen=True, config=_STRICT)
class MlpOptions:
    """The study's head and how it is trained."""

    hidden: tuple[Count, ...] = (256, 128)
    epochs: Count = 5
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 0.01
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.9
    decay_steps: Count = 10_000
    patience: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class LinearOptions:
    """Softmax regression: the strengths (inverse L2 penalties) tried on validation."""

    strengths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    iterations: Count = 50  # a strength; more changes validation accuracy in the fourth digit


@dataclass(frozen=True, config=_STRICT)
class PointsOptions:
    """Perceptron on the points of a hand, alone or in a fusion, and how its hands are disturbed in training."""

    hidden: tuple[Count, ...] = (256, 128)
    epochs: Count = 12
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Positive = 0.002
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    turn: Annotated[float, Field(ge=0, le=180)] = 20.0  # degrees at most, in the plane of the picture
    tilt: Annotated[float, Field(ge=0, le=180)] = 30.0  # degrees at most, out of it
    stretch: Annotated[float, Field(ge=0, lt=1)] = 0.08  # standard deviation, of all and of each axis
    jitter: Annotated[float, Field(ge=0)] = 0.05  # standard deviation of each point, in lengths of the palm
    flip: Share = 0.1  # hands taken for the other one


@dataclass(frozen=True, config=_STRICT)
class FusionOptions:
    """How the points of a hand and the features of a network answer together."""

    points_weight: Share = 0.5


@dataclass(frozen=True, config=_STRICT)
class HeadOptions:
    """Which classifier sits on the features."""

    kind: HeadKind = "mlp"
    mlp: MlpOptions = field(default_factory=MlpOptions)
    linear: LinearOptions = field(default_factory=LinearOptions)
    points: PointsOptions = field(default_factory=PointsOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """Everything that decides a run besides the archive."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0  # torch takes 64 bits
    split: SplitOptions = field(default_factory=SplitOptions)
    features: FeatureOptions = field(default_factory=FeatureOptions)
    fine_tuning: FineTuningOptions = field(default_factory=FineTuningOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    risk: Share = 0.05  # share of named letters that may be wrong, and of pictures of no letter that may get one

    def to_toml(self) -> str:
        """Complete text of the recipe; a value of None is left out, as TOML has none."""
        return tomli_w.dumps(_without_none(asdict(self)))


_ADAPTER = TypeAdapter(Recipe)

# What goes with a backbone that is named where a recipe has another, unless it is asked for otherwise.
_GIVEN_WITH: dict[str, dict[str, Any]] = {
    NAME: {"head.kind": "points"},
    READER: {
        "head.kind": "own",
        "features.size": None,
        "features.interpolation": None,
        "features.input_scale": "native",
        "features.precision": "float32",
        "fine_tuning.learning_rate": 0.002,
    },
}

# Values that mean something only beside certain others. A file may hold them all, as `train` writes it; who gives one
# that would do nothing expects something else.
_GOES_WITH = {
    "split.test_per_class": ("split.protocol", ("first-per-class",)),
    "split.guard": ("split.protocol", ("blocks",)),
    "split.fold": ("split.protocol", ("random", "blocks", "bursts", "groups")),
    "split.groups": ("split.protocol", ("groups", "leave-one-group-out")),
    "split.held_out": ("split.protocol", ("leave-one-group-out",)),
    **{f"fine_tuning.{name}": ("fine_tuning.enabled", (True,)) for name in ("epochs", "learning_rate")},
    "head.mlp.epochs": ("head.kind", ("mlp",)),
    "head.mlp.patience": ("head.kind", ("mlp",)),
}

# Values that say how a network sees pictures: MediaPipe has its own way.
_OF_NETWORKS = tuple(
    f"features.{name}" for name in ("weights", "size", "interpolation", "input_scale", "engine", "precision")
)


def names() -> list[str]:
    """Names of the recipes in the box."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by its name, or from a .toml file.

    Raises
    ------
    RecipeError
        If there is no such recipe, it is not TOML, or a value is unknown or out of range.
    """
    if name_or_path in names():
        data = (_folder() / f"{name_or_path}.toml").read_bytes()
    elif name_or_path.endswith(".toml") and Path(name_or_path).is_file():
        data = Path(name_or_path).read_bytes()
    else:
        raise RecipeError(f"no recipe {name_or_path!r}. Expected one of {', '.join(names())}, or a .toml file.")
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name_or_path}: not a TOML file ({error}).") from error
    try:
        recipe = _ADAPTER.validate_python(content)
    except ValidationError as error:
        raise RecipeError(f"{name_or_path}: {_explain(error)}") from error
    _check_hands(recipe)
    return recipe


def override(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """Recipe with some values replaced, checked like a file.

    Parameters
    ----------
    recipe
        Where the other values come from.
    values
        Dotted name to value, such as ``{"split.sample": 26000, "head.mlp.epochs": 5}``; None keeps the recipe's own.

    Raises
    ------
    RecipeError
        If a value is unknown or out of range.
    """
    content: dict[str, Any] = asdict(recipe)
    given_with = _GIVEN_WITH.get(values.get("features.backbone", ""), {})
    for name, value in given_with.items():
        stage, last = name.split(".")
        content[stage][last] = value
    for name, value in values.items():
        *path, last = name.split(".")
        section = content
        for step in path:
            section = section.setdefault(step, {})  # an unknown name is refused below, like one in a file
            if not isinstance(section, dict):
                raise RecipeError(f"{name}: {step} is a value and no section. Correct that name.")
        if value is not None:
            section[last] = value
    try:
        changed = _ADAPTER.validate_python(content)
    except ValidationError as error:
        raise RecipeError(_explain(error)) from error
    for name, (decider, values_of) in _GOES_WITH.items():
        found = attrgetter(decider)(changed)
        if values.get(name) is not None and found not in values_of:
            raise RecipeError(
                f"{name} = {values[name]!r} has no effect with {decider} = {found!r}: it goes with "
                f"{' or '.join(map(str, values_of))}. Leave one of the two out."
            )
    given = next((name for name in _OF_NETWORKS if values.get(name) is not None), None)
    if given and changed.features.backbone == NAME:
        raise RecipeError(
            f"{given} = {values[given]!r} has no effect with features.backbone = {NAME!r}, which has no network of "
            "ours. Leave one of the two out."
        )
    _check_hands(changed)
    return changed


def is_taught(recipe: Recipe) -> bool:
    """Whether a run teaches a reader, and so needs the points of the hands in training."""
    return recipe.features.backbone == READER and recipe.fine_tuning.enabled


def looks_for_hands(recipe: Recipe) -> bool:
    """Whether the model of a run needs the points of the hands."""
    return recipe.features.backbone == NAME or recipe.features.crop == "hand" or recipe.head.kind == "fusion"


def _check_hands(recipe: Recipe) -> None:
    """Refuse a head that cannot read the backbone's vectors, and what would do nothing beside points."""
    features = recipe.features
    points = features.backbone == NAME
    if points != (recipe.head.kind == "points"):
        raise RecipeError(
            f"head.kind = {recipe.head.kind!r} with features.backbone = {features.backbone!r}: expected the "
            f"head 'points' with the backbone {NAME!r}, and nowhere else. Change one of the two."
        )
    if points and features.crop:
        raise RecipeError(f"features.crop = {features.crop!r} has no effect with {NAME}. Leave one of the two out.")
    if points and recipe.fine_tuning.enabled:
        raise RecipeError(
            f"fine_tuning.enabled = True has no effect with {NAME}, which has no network of ours. Leave one of the two "
            "out; `--head fusion` reads the points beside a backbone that can be tuned."
        )
    if recipe.head.kind == "own" and features.backbone != READER:
        raise RecipeError(
            f"head.kind = 'own' with features.backbone = {features.backbone!r}: expected the backbone "
            f"{READER!r}, which alone answers with letters. Change one of the two."
        )
    if features.backbone == READER and (features.size or features.interpolation or features.input_scale != "native"):
        raise RecipeError(
            f"features.size = {features.size}, features.interpolation = {features.interpolation}, features.input_scale "
            f"= {features.input_scale!r}: expected none of them with the backbone {READER!r}, which has its own. Leave "
            "them out."
        )
    if features.backbone == READER and not (recipe.fine_tuning.enabled or features.weights):
        raise RecipeError(
            f"features.backbone = {READER!r} has not been taught: expected --fine-tune, which teaches it, or --weights "
            "FILE of one that was."
        )
    tuning, usual = recipe.fine_tuning, FineTuningOptions()
    for name in ("rotation", "mirrored"):
        if is_taught(recipe) and getattr(tuning, name) != getattr(usual, name):
            raise RecipeError(
                f"fine_tuning.{name} = {getattr(tuning, name)} has no effect with the backbone {READER!r}, which is "
                "taught in scenes of its own. Leave it out."
            )
    if features.hand_model and not looks_for_hands(recipe) and not is_taught(recipe):
        raise RecipeError(
            "features.hand_model has no effect: nothing in this recipe looks for hands. Leave it out, or ask for the "
            f"backbone {NAME}, the crop 'hand' or the head 'fusion', or teach a reader."
        )


def _folder() -> resources.abc.Traversable:
    return resources.files(__name__)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "missing":
        return f"{place} is missing. Add that value."
    if first["type"] == "unexpected_keyword_argument":
        return f"{place} is unknown; expected one of {', '.join(_known(first['loc'][:-1]))}. Correct that name."
    return f"{place} = {first['input']!r}: {first['msg']}. Correct that value."


def _known(place: tuple[int | str, ...]) -> list[str]:
    """Names of the values in a section of a recipe."""
    section: Any = asdict(Recipe("any"))
    for step in place:
        section = section[step]
    return list(section)


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }
