"""What features in less than float32 cost a run, measured on its own test pictures."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from fingerspell import cache
from fingerspell.engines import NetworkEngine, open_engine
from fingerspell.features import extract, open_store
from fingerspell.graphs import agreement
from fingerspell.heads import probabilities
from fingerspell.images import VIEWS
from fingerspell.splits import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.engines import Engine
    from fingerspell.features import FeatureStore

_PICTURES = 128  # three seconds of VGG16 in float32


def measure_cost(
    archive: Archive, pictures: Sequence[Picture], engine: Engine, store: FeatureStore, head: nn.Module
) -> dict[str, Any]:
    """Compare an engine's features with float32's, and the letters that a head reads in both.

    The exported model computes in float32, so this is also how near it is to what was scored.

    Parameters
    ----------
    archive, pictures
        Test pictures; some, evenly spaced, are looked at once more in float32.
    engine, store
        What the features were computed and remembered with.
    head
        Trained on those features.

    Returns
    -------
    dict
        ``engine`` and ``precision``; for less than float32 also the number of ``pictures`` compared, on how many the
        letter is the ``same_letter``, and the fields of ``graphs.Agreement``.
    """
    facts: dict[str, Any] = {"engine": engine.name, "precision": engine.precision}
    if not isinstance(engine, NetworkEngine) or engine.precision == "float32":
        return facts
    exact = open_engine(
        engine.backbone, cache.graphs_folder(), engine=engine.name, precision="float32", hands=engine.hands
    )
    sample = evenly_spaced(pictures, _PICTURES)
    original = VIEWS[:1]
    with open_store(cache.features_folder(), exact) as exact_store:
        extract(archive, sample, exact, exact_store, views=original)
        reference = exact_store.load(sample, original)[:, 0]
    vectors = store.load(sample, original)[:, 0]
    letters, expected = (probabilities(head, torch.from_numpy(v)).argmax(dim=1) for v in (vectors, reference))
    same = int((letters == expected).sum())
    return facts | {"pictures": len(sample), "same_letter": same} | asdict(agreement(vectors, reference))


def cost_notes(facts: dict[str, Any]) -> list[str]:
    """Sentence for the report on what ``measure_cost`` found; none for float32."""
    if facts["precision"] == "float32":
        return []
    difference, same, pictures = facts["relative_difference"], facts["same_letter"], facts["pictures"]
    note = (
        f"Features were computed in {facts['precision']} and differ from float32 by {difference:.1%}. The exported "
        f"model computes in float32; of {pictures} test pictures it names the same letter on {same}."
    )
    return [note]
