"""Using a model: how much work a stream of pictures is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fingerspell.model import _BATCH, Card, Model, predictions
from pictures import numbered

CARD = Card(2, "counting", ("A", "B"), 8, "nearest", {}, "mlp", {}, {}, 1.0, 0.6, 0.05)


class CountingSession:
    """Stands in for onnxruntime's session: remembers the batch sizes it was called with."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="pictures")]

    def run(self, _outputs: None, inputs: dict[str, Any]) -> list[Any]:
        count = len(inputs["pictures"])
        self.batches.append(count)
        return [np.full((count, 2), 0.5, np.float32)]


@pytest.mark.parametrize("count", [0, 1, _BATCH, _BATCH + 1, 3 * _BATCH - 1])
def test_a_stream_runs_the_network_once_a_batch(count: int) -> None:
    session = CountingSession()
    files = ((str(number), numbered(number)) for number in range(count))
    names = [name for name, _ in Model(CARD, session).stream(files, lambda *_: None)]
    assert names == [str(number) for number in range(count)]
    assert len(session.batches) == -(-count // _BATCH)
    assert sum(session.batches) == count


def test_what_cannot_be_read_costs_no_network_call() -> None:
    session = CountingSession()
    problems: list[str] = []
    assert list(Model(CARD, session).stream([("a", b""), ("b", b"text")], lambda name, _: problems.append(name))) == []
    assert (problems, session.batches) == (["a", "b"], [])


def test_below_the_threshold_it_names_no_letter() -> None:
    rows = np.array([[0.59, 0.41], [0.6, 0.4], [0.1, 0.9]], np.float32)
    found = predictions(["a", "b", "c"], rows, CARD.labels, CARD.threshold)
    assert [row.answer for row in found] == ["no letter", "A", "B"]
    assert [row.letter for row in found] == ["A", "A", "B"]
