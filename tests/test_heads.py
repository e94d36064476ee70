"""Heads that read the points of a hand: their frame, their voices, and what becomes of them in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fingerspell import hands
from fingerspell.graphs import backbone_graph, classifier
from fingerspell.heads import (
    DESCRIPTION,
    FusionHead,
    PointsHead,
    _pooled,
    describe,
    head_of,
    normalise,
    own_head,
    perceptron,
    probabilities,
    tempered,
)
from fingerspell.testing import fake_backbone

CLASSES = 5


def rows(count: int = 6, seed: int = 0) -> np.ndarray:
    """Rows of hands, of which the last was missed, in pictures twice as wide as high."""
    rng = np.random.default_rng(seed)
    made = rng.random((count, hands.LOOKS, hands.LOOK)).astype(np.float32)
    made[:, :, [hands.FOUND, hands.RIGHT]] = 1, 0.9
    made[-1] = 0
    made[:, :, hands.SHAPE] = 2 * np.array(hands.STRETCHES)
    return made.reshape(count, hands.ROW)


def changed(made: np.ndarray, part: slice, change: np.ndarray) -> np.ndarray:
    result = made.copy()
    result[:, part] = (made[:, part].reshape(-1, hands.POINTS, 3) * change).reshape(len(made), -1)
    return result


def shaken(head: torch.nn.Module) -> torch.nn.Module:
    """Head with weights and statistics that differ from those of a new one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in head.state_dict().items():
            if value.is_floating_point() and "temperature" not in name and not name.endswith("weight"):
                value.add_(torch.rand_like(value))
    return head.eval()


def fusion(dimension: int, hidden: tuple[int, ...], classes: int, weight: float = 0.5) -> FusionHead:
    return FusionHead(PointsHead(hidden, classes), perceptron([dimension, classes], 0.0), weight)


def test_normalised_points_know_neither_place_nor_size_nor_side() -> None:
    made = rows()
    found = normalise(torch.from_numpy(made))
    moved = made.copy()
    moved[:-1, hands.PICTURE] = made[:-1, hands.PICTURE] * 0.5 + np.tile([0.1, 0.2, 0.0], hands.POINTS)
    left = changed(changed(made, hands.PICTURE, np.array([-1, 1, 1])), hands.WORLD, np.array([-1, 1, 1]))
    left[:, hands.RIGHT] = 0.1
    for other in (moved, left):
        np.testing.assert_allclose(normalise(torch.from_numpy(other)), found, atol=1e-4)
    palm = found[0, :, [0, 5, 9, 13, 17]]
    np.testing.assert_allclose(palm.mean(dim=1), np.zeros((2, 3)), atol=1e-5)
    np.testing.assert_allclose((palm[:, 1:].mean(dim=1) - palm[:, 0]).norm(dim=1), np.ones(2), rtol=1e-4)


def test_normalised_points_know_the_picture_s_shape_and_the_hand_s_direction() -> None:
    made = rows()
    square = changed(made, hands.PICTURE, np.array([2, 1, 2]))  # the same hand in a picture as wide as high
    square[:, hands.SHAPE] = 1
    np.testing.assert_allclose(normalise(torch.from_numpy(square)), normalise(torch.from_numpy(made)), atol=1e-4)
    turned = changed(made, hands.WORLD, np.array([-1, -1, 1]))  # half a turn in the plane of the picture
    expected = normalise(torch.from_numpy(made))[:-1, 1] * torch.tensor([-1, -1, 1])
    np.testing.assert_allclose(normalise(torch.from_numpy(turned))[:-1, 1], expected, atol=1e-4)


def test_bends_and_spans_do_not_depend_on_the_direction() -> None:
    points = normalise(torch.from_numpy(rows()))
    turned = points @ torch.linalg.qr(torch.rand(3, 3))[0]
    coordinates_and_bones = 2 * 3 * (hands.POINTS + 23)
    one, other = (describe(p)[:, coordinates_and_bones:] for p in (points, turned))
    assert describe(points).shape == (6, DESCRIPTION)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_missed_hand_has_the_shares_of_training() -> None:
    head = PointsHead((8,), CLASSES)
    head.missed.copy_(torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]).log())
    answers = probabilities(head, torch.from_numpy(rows()))
    np.testing.assert_allclose(answers[-1], [0.5, 0.2, 0.1, 0.1, 0.1], rtol=1e-5)
    assert not torch.allclose(answers[0], answers[-1])


def test_surest_look_has_the_loudest_voice_and_a_missed_one_none() -> None:
    head = PointsHead((), 2).eval()
    # Of each look as either hand's: one is sure of the first letter, the others hesitate.
    said = torch.tensor([[4.0, -4.0]] + [[-0.3, 0.3]] * 7)
    head.layers.forward = lambda _: said  # type: ignore[method-assign]
    row = torch.zeros(1, hands.LOOKS, hands.LOOK)
    row[:, :, hands.FOUND] = row[:, :, hands.SHAPE] = 1
    assert probabilities(head, row.view(1, -1)).argmax() == 0
    row[:, 0, hands.FOUND] = 0
    np.testing.assert_allclose(
        probabilities(head, row.view(1, -1))[0], 0.95 * torch.softmax(said[1], dim=0) + 0.025, rtol=1e-5
    )


def test_an_unlikely_shape_has_a_lower_voice() -> None:
    answers = torch.tensor([0.9, 0.1]).log().repeat(1, hands.LOOKS, 2, 1)
    answers[:, -1] = answers[:, -1].flip(2)  # as sure, of the other letter
    heard = torch.tensor([[True] + [False] * (hands.LOOKS - 2) + [True]])
    pooled = _pooled(answers, heard)[0]
    expected = (answers[0, 0, 0] + hands.VOICES[-1] * answers[0, -1, 0]) / (1 + hands.VOICES[-1])
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(
        _pooled(answers, torch.tensor([[False] * (hands.LOOKS - 1) + [True]]))[0], answers[0, -1, 0]
    )


class TestFusion:
    def joined(self) -> torch.Tensor:
        features = np.random.default_rng(1).normal(size=(6, hands.LOOKS * 24)).astype(np.float32)
        return torch.from_numpy(np.concatenate([rows(), features], axis=1))

    def test_each_branch_answers_alone_where_the_other_sees_nothing(self) -> None:
        head = shaken(fusion(24, (8,), CLASSES))
        assert isinstance(head, FusionHead)
        joined = self.joined()
        alone = joined.clone()
        alone[:, hands.ROW :] = 0
        answers, points = probabilities(head, alone), probabilities(head.points, joined[:, : hands.ROW])
        np.testing.assert_allclose(answers[:-1], points[:-1], rtol=1e-4)
        np.testing.assert_allclose(answers[-1], torch.softmax(head.points.missed, dim=0), rtol=1e-4)
        pixels = probabilities(head.pixels, joined[:, hands.ROW :][:, :24])  # of the picture as it is
        np.testing.assert_allclose(probabilities(head, joined)[-1], pixels[-1] * 0.95 + 0.05 / CLASSES, rtol=1e-4)

    def test_the_look_in_which_both_are_sure_of_a_letter_is_heard_most(self) -> None:
        head = fusion(2, (), 2).eval()
        head.pixels.forward = lambda features: features  # type: ignore[method-assign]
        # The points are sure of the first letter, but in the last two looks, which missed the hand.
        head.points.layers.forward = lambda _: torch.tensor([[4.0, -4.0]] * 4 + [[-4.0, 4.0]] * 4)  # type: ignore[method-assign]
        row = torch.zeros(1, hands.LOOKS, hands.LOOK)
        row[:, :2, hands.FOUND] = row[:, :, hands.SHAPE] = 1
        for first, second, answer in (([4.0, -4.0], [-9.0, 9.0], 0), ([-9.0, 9.0], [4.0, -4.0], 0)):
            features = torch.tensor([[*first, *second, -9.0, 9.0, -9.0, 9.0]])
            answers = probabilities(head, torch.cat([row.view(1, -1), features], dim=1))[0]
            agreed = 0.95 * torch.softmax(torch.tensor([4.0, -4.0]), dim=0) + 0.025
            assert answers.argmax() == answer
            assert 0.5 < answers[0] < agreed[0]
        features = torch.tensor([[4.0, -4.0, 4.0, -4.0, -9.0, 9.0, -9.0, 9.0]])
        answers = probabilities(head, torch.cat([row.view(1, -1), features], dim=1))[0]
        np.testing.assert_allclose(answers, agreed, rtol=1e-4)

    def test_a_branch_that_is_sure_of_everything_can_be_outvoted(self) -> None:
        head = fusion(24, (), 2, weight=0.6).eval()
        with torch.no_grad():
            for layers, letter in ((head.points.layers, 0), (head.pixels, 1)):
                last = layers[-1]
                assert isinstance(last, torch.nn.Linear)
                last.weight.zero_()
                last.bias.zero_()
                last.bias[letter] = 4 if letter == 0 else 1000
        assert probabilities(head, self.joined())[0].argmax() == 0


@pytest.mark.parametrize("kind", ["points", "fusion", "fusion of own answers"])
def test_exported_head_gives_the_same_answers(kind: str, tmp_path: Path) -> None:
    backbone = fake_backbone()
    head: torch.nn.Module = PointsHead((8, 6), CLASSES)
    if kind != "points":
        head = fusion(24, (8, 6), CLASSES, weight=0.3)
    if kind == "fusion of own answers":
        head = FusionHead(PointsHead((8, 6), CLASSES), own_head(24, "ABCDE"), weight=0.3)
    head = shaken(head)
    scaled = tempered(head, 2.0)
    graph = None if kind == "points" else backbone_graph(backbone, tmp_path)
    exported = classifier(graph, scaled)
    assert b"site-packages" not in exported
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(2).integers(0, 256, (6 * hands.LOOKS, 16, 16, 3)).astype(np.uint8)
    feed = {"hands": rows()} | ({} if graph is None else {"pictures": pictures})
    assert {entry.name for entry in session.get_inputs()} == set(feed)
    with torch.inference_mode():
        features = backbone.network(torch.from_numpy(pictures)).view(6, -1)
    parts = [torch.from_numpy(rows())] + ([] if graph is None else [features])
    given = torch.cat(parts, dim=1)
    for count in (1, 6):
        some = {name: value[: count * len(value) // 6] for name, value in feed.items()}
        (answers,) = session.run(["probabilities"], some)
        np.testing.assert_allclose(answers, probabilities(scaled, given[:count]), atol=1e-5)
    again = head_of(kind.split(maxsplit=1)[0], scaled.state_dict())
    np.testing.assert_allclose(probabilities(again, given), probabilities(scaled, given), atol=1e-6)
    with torch.inference_mode():
        np.testing.assert_allclose(scaled(given) * 2, head(given), rtol=1e-4)
