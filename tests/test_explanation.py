"""Occlusion maps of models whose evidence is known: they look at one corner and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fingerspell import hands
from fingerspell.errors import DatasetError, ModelError, RunError
from fingerspell.explanation import Box, explain, explain_files, read_boxes
from fingerspell.model import FORMAT, Card, Model
from fingerspell.rendering.generate import render_dataset
from pictures import png

SIZE = 48
CARD = Card(FORMAT, "corner", ("A", "B"), SIZE, "nearest", {}, "mlp", {}, {}, 1.0, 0.0, 0.05)


class Session:
    """Stands in for onnxruntime's."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="pictures")]


class Corner(Session):
    """Sure of A as far as the upper left quarter is white."""

    def run(self, _outputs: None, inputs: dict[str, Any]) -> list[Any]:
        white = (inputs["pictures"][:, : SIZE // 2, : SIZE // 2] > 250).mean(axis=(1, 2, 3))
        return [np.stack([0.5 + white / 2, 0.5 - white / 2], axis=1).astype(np.float32)]


class Blind(Session):
    def run(self, _outputs: None, inputs: dict[str, Any]) -> list[Any]:
        return [np.tile(np.array([[0.7, 0.3]], np.float32), (len(inputs["pictures"]), 1))]


def never(name: str, reason: str) -> None:
    """Every picture can be read."""
    pytest.fail(f"{name}: {reason}")


def half_white() -> np.ndarray:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2] = 255
    return pixels


def test_evidence_is_where_the_model_looks() -> None:
    found = explain(Model(CARD, Corner()), {"pictures": half_white()})
    assert (found.letter, found.probability) == ("A", 1.0)
    assert found.evidence.shape == (SIZE, SIZE)
    assert (found.share_inside(Box(0, 0, 0.5, 0.5)) or 0) > 0.8  # patches that lie half outside spread it
    assert found.share_inside(Box(0.8, 0.8, 1, 1)) == 0


def test_the_picture_is_left_as_it_was() -> None:
    pixels = half_white()
    explain(Model(CARD, Corner()), {"pictures": pixels})
    np.testing.assert_array_equal(pixels, half_white())


def test_a_model_that_looks_at_nothing_has_no_share() -> None:
    found = explain(Model(CARD, Blind()), {"pictures": half_white()})
    assert found.share_inside(Box(0, 0, 1, 1)) is None


class FirstOfAll(Corner):
    """Reads the corner of the first look at each picture; more than one look that found the hand is an error."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("pictures", "hands")]

    def run(self, _outputs: None, inputs: dict[str, Any]) -> list[Any]:
        assert len(inputs["pictures"]) == hands.LOOKS * len(inputs["hands"])
        found = inputs["hands"].reshape(-1, hands.LOOKS, hands.LOOK)[:, :, hands.FOUND]
        assert (found == [1] + [0] * (hands.LOOKS - 1)).all()
        return super().run(_outputs, {"pictures": inputs["pictures"][:: hands.LOOKS]})


def test_of_several_looks_the_first_is_explained() -> None:
    black = np.zeros_like(half_white())
    seen = {"pictures": np.stack([half_white()] + [black] * (hands.LOOKS - 1)), "hands": np.ones(hands.ROW, np.float32)}
    found = explain(Model(replace(CARD, head="fusion"), FirstOfAll()), seen)
    alone = explain(Model(CARD, Corner()), {"pictures": half_white()})
    assert found.probability == alone.probability
    np.testing.assert_array_equal(found.evidence, alone.evidence)
    assert (seen["hands"] == 1).all()


def test_some_files_are_chosen_and_measured(tmp_path: Path) -> None:
    files = [(f"set.zip/{n}.png", png(half_white())) for n in range(9)]
    (tmp_path / "boxes.csv").write_text("path,left,top,right,bottom\n0.png,0,0,0.5,0.5\n4.png,0.5,0.5,1,1\n")
    found = explain_files(
        Model(CARD, Corner()),
        lambda: iter([*files, files[4]]),  # a picture that is named twice is one
        tmp_path / "out",
        never,
        boxes=tmp_path / "boxes.csv",
        count=3,
    )
    assert [row["id"] for row in found["pictures"]] == ["set.zip/0.png", "set.zip/4.png", "set.zip/8.png"]
    shares = [row.get("inside") for row in found["pictures"]]
    assert shares[0] > 0.8
    assert shares[1] < 0.05
    assert shares[2] is None
    assert found["area"] == 0.25
    assert json.loads((tmp_path / "out" / "explanation.json").read_text()) == found
    assert (tmp_path / "out" / "explanation.png").stat().st_size > 1000


def test_boxes_are_where_a_padded_picture_is(tmp_path: Path) -> None:
    # Twice as wide as high, in the middle of the square: its upper left quarter is the square's, from a quarter down.
    pixels = np.zeros((SIZE // 2, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2] = 255
    (tmp_path / "boxes.csv").write_text("path,left,top,right,bottom\nwide.png,0,0,0.5,0.5\n")
    card = replace(CARD, backbone={"backbone": "reader"}, padded=True)
    found = explain_files(
        Model(card, Corner()),
        lambda: iter([("wide.png", png(pixels))]),
        tmp_path / "out",
        never,
        boxes=tmp_path / "boxes.csv",
    )
    assert found["area"] == 0.125
    assert 0.3 < found["inside"] < 0.7  # the corner that counts is the lower half of what is above, and this box


def test_a_box_says_nothing_of_a_model_that_sees_it_alone(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("path,left,top,right,bottom\n0.png,0,0,0.5,0.5\n")
    with pytest.raises(ModelError, match="sees the box of the hand alone"):
        explain_files(
            Model(replace(CARD, crop="hand"), Corner()),
            lambda: iter([("0.png", png(half_white()))]),
            tmp_path,
            never,
            boxes=tmp_path / "boxes.csv",
        )


def test_nothing_to_explain(tmp_path: Path) -> None:
    model = Model(CARD, Corner())
    with pytest.raises(DatasetError, match="found no picture to explain"):
        explain_files(model, lambda: iter([]), tmp_path, never)
    with pytest.raises(DatasetError, match=r"nope\.csv: there is no such file of boxes"):
        explain_files(model, lambda: iter([("0.png", b"")]), tmp_path / "out", never, boxes=tmp_path / "nope.csv")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="none of these pictures can be read"):
        explain_files(model, lambda: iter([("0.png", b"cut")]), tmp_path / "out", lambda *_: None)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_explained(tmp_path: Path) -> None:
    files = [("0.png", png(half_white())), ("1.png", png(half_white())[:60]), ("2.png", png(half_white()))]
    named: list[tuple[str, str]] = []
    told: list[int] = []
    found = explain_files(
        Model(CARD, Corner()),
        lambda: iter(files),
        tmp_path / "out",
        lambda *about: named.append(about),
        on_progress=lambda _, done, __: told.append(done),
    )
    assert [row["id"] for row in found["pictures"]] == ["0.png", "2.png"]
    assert [name for name, _ in named] == ["1.png"]
    assert told == [1, 2, 3]
    assert (tmp_path / "out" / "explanation.png").exists()


def test_an_explanation_is_not_written_into_something_else(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "0.png").write_bytes(png(half_white()))
    with pytest.raises(RunError, match="holds something else"):
        explain_files(Model(CARD, Corner()), lambda: iter([("0.png", png(half_white()))]), tmp_path, never)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names none of the 1 pictures"),
        ("path,left,top,right,bottom\nother.png,0,0,1,1\n", "it has other.png; the pictures are a.png"),
        ("path,left,top,right\na.png,0,0,1\n", "columns path, left, top, right, bottom"),
        ("path,left,top,right,bottom\na.png,0,0,1,many\n", "columns path, left, top, right, bottom"),
        ("path,left,top,right,bottom\na.png,0.5,0,0.4,1\n", "expected 0 <= left < right <= 1"),
        ("path,left,top,right,bottom\na.png,0,0,90,90\n", "expected 0 <= left < right <= 1"),
    ],
)
def test_bad_boxes(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_boxes(text.encode(), ["a.png"])


def test_a_rendered_set_says_where_its_hands_are(tmp_path: Path) -> None:
    render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=32)
    pictures = sorted(p.relative_to(tmp_path / "set").as_posix() for p in (tmp_path / "set").rglob("*.png"))
    boxes = read_boxes((tmp_path / "set" / "hands.csv").read_bytes(), pictures)
    assert boxes.keys() >= {p for p in pictures if "/Blank/" not in p}
