"""fingerspell: from an archive of labelled hand pictures to a recogniser of the ASL manual alphabet.

The way of the data, one module a stage:

archive -> dataset -> splits -> backbones, finetuning, engines, features -> heads, training -> exporting -> evaluation,
reporting

``runs.train`` goes the whole way; ``model`` uses the result and needs no torch. Every name below is imported when it is
first used, so that ``import fingerspell`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fingerspell.archive import Archive, open_archive
    from fingerspell.backbones import Backbone, load_backbone
    from fingerspell.dataset import Dataset, Picture, scan
    from fingerspell.engines import Engine, open_engine
    from fingerspell.errors import FingerspellError
    from fingerspell.features import FeatureStore, extract, open_store
    from fingerspell.finetuning import fine_tune
    from fingerspell.inspection import Inspection, inspect
    from fingerspell.model import Hand, Model, Prediction, load_model
    from fingerspell.recipes import Recipe, load_recipe, override
    from fingerspell.rendering import render_dataset
    from fingerspell.runs import Run, evaluate, train
    from fingerspell.splits import Split, split_pictures

_HOMES = {
    "archive": ("Archive", "open_archive"),
    "backbones": ("Backbone", "load_backbone"),
    "dataset": ("Dataset", "Picture", "scan"),
    "engines": ("Engine", "open_engine"),
    "errors": ("FingerspellError",),
    "features": ("FeatureStore", "extract", "open_store"),
    "finetuning": ("fine_tune",),
    "inspection": ("Inspection", "inspect"),
    "model": ("Hand", "Model", "Prediction", "load_model"),
    "recipes": ("Recipe", "load_recipe", "override"),
    "rendering": ("render_dataset",),
    "runs": ("Run", "evaluate", "train"),
    "splits": ("Split", "split_pictures"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Archive",
    "Backbone",
    "Dataset",
    "Engine",
    "FeatureStore",
    "FingerspellError",
    "Hand",
    "Inspection",
    "Model",
    "Picture",
    "Prediction",
    "Recipe",
    "Run",
    "Split",
    "evaluate",
    "extract",
    "fine_tune",
    "inspect",
    "load_backbone",
    "load_model",
    "load_recipe",
    "open_archive",
    "open_engine",
    "open_store",
    "override",
    "render_dataset",
    "scan",
    "split_pictures",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fingerspell' has no attribute {name!r}")
    try:
        return getattr(import_module(f"fingerspell.{_MODULE_OF[name]}"), name)
    except ModuleNotFoundError as error:
        from fingerspell.errors import not_installed

        raise not_installed(error) from error


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
