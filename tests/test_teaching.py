from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import noisy_picture
from fingerspell import hands, teaching
from fingerspell.archive import open_archive
from fingerspell.backbones import untaught_reader
from fingerspell.dataset import Picture, scan
from fingerspell.errors import DatasetError
from fingerspell.reader import grid
from fingerspell.recipes import FineTuningOptions
from fingerspell.teaching import teach
from pictures import write_zip

OPTIONS = FineTuningOptions(enabled=True, epochs=2, batch_size=6, learning_rate=1e-3)


@pytest.fixture(scope="module")
def archive_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures each of A and B, and two without a hand."""
    counts = {"A": 6, "B": 6, "nothing": 2}
    files = {f"{x}/{x}{n}.png": noisy_picture(x[0], n, 40) for x, count in counts.items() for n in range(count)}
    return write_zip(tmp_path_factory.mktemp("taught") / "hands.zip", files)


def labelled(path: Path) -> list[Picture]:
    with open_archive(path) as archive:
        return list(scan(archive).pictures)


def rows_of(pictures: list[Picture]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the teacher might say: hands in the upper left part of a square picture."""
    rows = np.random.default_rng(0).uniform(0.1, 0.6, (len(pictures), hands.ROW)).astype(np.float32)
    rows[:, hands.FOUND], rows[:, hands.RIGHT], rows[:, hands.STEP], rows[:, hands.SHAPE] = 1, 1, 0, 1
    rows[[picture.label == "nothing" for picture in pictures]] = 0
    return rows


def test_a_reader_is_taught_remembered_and_not_changed_itself(archive_path: Path, tmp_path: Path) -> None:
    pictures = labelled(archive_path)
    assert {picture.label for picture in pictures} == {"A", "B", "nothing"}
    start = untaught_reader()
    before = {key: value.clone() for key, value in start.network.state_dict().items()}
    told: list[tuple[str, int, int]] = []
    with open_archive(archive_path) as archive:
        groups: dict[str, str] = {}
        given = (archive, pictures, rows_of(pictures), groups, OPTIONS, tmp_path)
        taught = teach(start, *given, on_progress=lambda *now: told.append(now))  # fit refuses a loss that is no number
        steps = [now for now in told if now[0] == "Fine-tuning"]
        assert [step for _, step, _ in steps] == [1, 2, 3, 4, 1, 2]  # two epochs, and one of squeezed scenes
        told.clear()
        again = teach(start, *given, on_progress=lambda *now: told.append(now))
    assert told == []
    assert again == taught
    assert taught.weights_sha256 != start.weights_sha256
    assert (taught.name, taught.dimension, taught.preprocessing) == ("reader", 94, start.preprocessing)
    after = taught.network.state_dict()
    assert all(torch.equal(value, value.half().float()) for value in after.values())
    folded = start.network.layers.eye.folded().state_dict()  # type: ignore[union-attr,operator]
    changed = {key for key, value in folded.items() if not torch.equal(value.half(), after[f"layers.eye.{key}"].half())}
    assert not any(key.startswith(("trunk.conv_stem", "trunk.blocks.0", "trunk.blocks.1")) for key in changed)
    assert {"letters.1.weight", "by_points.2.weight", "heatmaps.1.weight", "trunk.blocks.2.0.conv_dw.weight"} <= changed
    assert all(torch.equal(value, start.network.state_dict()[key]) for key, value in before.items())
    assert [path.name for path in tmp_path.glob("*/*")] == ["weights.safetensors"] * 2


def test_rendered_hands_are_taught_first_and_once_for_all_who_follow(archive_path: Path, tmp_path: Path) -> None:
    pictures, told = labelled(archive_path), list[tuple[str, int, int]]()
    rows = rows_of(pictures)
    rows[[picture.label == "A" for picture in pictures], hands.STEP] = hands.DRAWN
    people = [n for n, picture in enumerate(pictures) if picture.label != "A"]
    taught = []
    with open_archive(archive_path) as archive:
        for left_out in people[:1], people[-1:]:
            kept = [n for n in range(len(pictures)) if n not in left_out]
            own = [pictures[n] for n in kept]
            taught.append(
                teach(
                    untaught_reader(),
                    archive,
                    own,
                    rows[kept],
                    {},
                    OPTIONS,
                    tmp_path,
                    on_progress=lambda *now: told.append(now),
                )
            )
    steps = [total for stage, step, total in told if stage == "Fine-tuning" and step == total]
    assert steps == [3, 4, 2, 4, 2]  # three epochs of six pictures before two of thirteen and one of them squeezed
    assert taught[0] != taught[1]
    assert len([*tmp_path.glob("*/weights.safetensors")]) == 5


def test_the_last_epochs_are_squeezed_and_gentle(
    archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, seen = labelled(archive_path), list[tuple[float, float | None]]()

    def fit(network: Any, lessons: Any, loss: Any, options: FineTuningOptions, *_: Any, **__: Any) -> Any:
        seen.append((loss.args[1], options.learning_rate))
        return network

    monkeypatch.setattr(teaching, "fit", fit)
    with open_archive(archive_path) as archive:
        for folder, rate in (("given", 1e-3), ("own", None)):
            options = replace(OPTIONS, learning_rate=rate)
            groups: dict[str, str] = {}
            given = (archive, pictures, rows_of(pictures), groups, options, tmp_path / folder)
            teach(untaught_reader(), *given, on_progress=lambda *_: None)
    assert seen == [(0.0, 1e-3), (0.4, pytest.approx(3.5e-4)), (0.0, None), (0.4, None)]


def test_heatmaps_are_right_when_they_are_spots_at_the_points() -> None:
    places = torch.tensor([[[0.3, 0.6], [0.8, 0.2]]])
    spread = torch.tensor([0.1])
    _, target = teaching._divergence(torch.zeros(1, 2, 12, 12), places, spread, 1.2)
    lines = grid(12, 1.2, spread)
    spots = target.view(1, 2, 12, 12)
    torch.testing.assert_close((spots.sum(2) * lines).sum(2), places[:, :, 0], atol=5e-3, rtol=0)
    torch.testing.assert_close((spots.sum(3) * lines).sum(2), places[:, :, 1], atol=5e-3, rtol=0)
    wrong = [teaching._divergence(maps, places, spread, 1.2)[0] for maps in (spots.log(), spots.roll(1, 3).log())]
    torch.testing.assert_close(wrong[0], torch.zeros(1, 2), atol=1e-5, rtol=0)
    assert wrong[1].min() > 0.1


def test_picture_that_changed_since_the_scan_is_refused(archive_path: Path, tmp_path: Path) -> None:
    pictures = [replace(picture, sha256="0" * 64) for picture in labelled(archive_path)]
    with open_archive(archive_path) as archive, pytest.raises(DatasetError, match="changed while"):
        list(teaching._squares(archive, pictures))


def lessons_of(points: torch.Tensor, trust: torch.Tensor, shown: torch.Tensor) -> teaching._Lessons:
    """Grey pictures whose hand, the box of the points and some of its surroundings, is white."""
    count, side = len(points), teaching._SIDE
    pixels = np.full((count, side, side, 3), 90, np.uint8)
    for number in range(count):
        if shown[number]:
            (left, top), (right, bottom) = (points[number, :, :2].aminmax(dim=0)[end].tolist() for end in (0, 1))
            pixels[number, int(top * side) : int(bottom * side), int(left * side) : int(right * side)] = 255
    return teaching._Lessons(pixels, (points, torch.zeros(count), trust, torch.zeros(count).long(), shown))


def test_backgrounds_hold_no_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "_DRAWN", 1)
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 1, 3, generator=generator) * 0.8
    size = 0.1 + torch.rand(40, 1, 1, generator=generator) * 0.5
    points = (low + torch.rand(40, 21, 3, generator=generator) * size).clamp(0, 1)
    trust = (torch.arange(40) < 30).float()  # the last ones' points are unknown: nothing beside them is known free
    shown = (torch.arange(40) < 35).float()
    found = teaching._backgrounds(lessons_of(points, trust, shown), 0)[:-1]
    assert found.dtype == torch.uint8
    assert found.shape[1:] == (3, teaching._SIDE, teaching._SIDE)
    assert 10 < len(found) <= 35
    assert (found == 90).all()


def test_hand_that_fills_the_picture_leaves_no_room() -> None:
    points = torch.tensor([[0.1, 0.1, 0.0], [0.9, 0.9, 0.0]]).repeat(11, 1)[:21]
    assert teaching._room(torch.zeros(3, teaching._SIDE, teaching._SIDE), points) is None


def test_drawn_backgrounds_repeat_themselves() -> None:
    one, same, other = (teaching._drawn(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_shares_balance_groups_by_their_bursts_and_letters_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {("film", "A"): 8, ("film", "B"): 2, ("photos", "A"): 4, ("photos", "B"): 5, ("", "nothing"): 3}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    pictures = [
        Picture(id=f"{n}", label=label, sha256="", frame=None, width=1, height=1, format="PNG", dhash="0" * 16)
        for n, (_, label) in enumerate(kinds)
    ]
    # Each of the film's letters is one burst, each photo its own.
    numbers = [{("film", "A"): 100, ("film", "B"): 101}.get(k, n) for n, k in enumerate(kinds) if k[1] != "nothing"]
    monkeypatch.setattr(teaching, "bursts", lambda _: np.array(numbers))
    shares = teaching._shares(pictures, {p.id: group for p, (group, _) in zip(pictures, kinds, strict=True) if group})
    total: defaultdict[tuple[str, str], float] = defaultdict(float)
    for kind, share in zip(kinds, shares, strict=True):
        total[kind] += share
    assert total["film", "A"] == pytest.approx(total["film", "B"]) == pytest.approx(2**0.5)
    assert total["photos", "A"] == pytest.approx(total["photos", "B"]) == pytest.approx(9**0.5)
    letters = sum(value for (_, label), value in total.items() if label != "nothing")
    assert total["", "nothing"] == pytest.approx(0.04 * letters)


def test_points_go_along_into_the_square() -> None:
    row = np.zeros((1, hands.ROW), np.float32)
    row[0, hands.SHAPE] = 2  # twice as wide as high: the square adds half a height above and below
    row[0, hands.PICTURE] = np.tile([0.25, 0.0, 0.1], 21)
    np.testing.assert_allclose(teaching._in_square(row)[0, 0], [0.25, 0.25, 0.1], rtol=1e-5)
    row[0, hands.SHAPE] = 0.5
    np.testing.assert_allclose(teaching._in_square(row)[0, 0], [0.375, 0.0, 0.05], rtol=1e-5)
