"""What a rendered set says of its own hands."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from conftest import noisy_picture
from fingerspell import hands, runs, steps
from fingerspell.alphabet import LETTERS
from fingerspell.archive import open_archive, open_archives
from fingerspell.dataset import Dataset, Picture, scan
from fingerspell.errors import DatasetError
from fingerspell.recipes import load_recipe, override
from fingerspell.rendering import render_dataset
from fingerspell.teaching import _lessons
from fingerspell.testing import FakeDetector
from fingerspell.training import train_points
from fingerspell.truth import rendered_among, true_rows
from pictures import alphabet, write_folder, write_zip

if TYPE_CHECKING:
    from fingerspell.training import Examples, Trained


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth") / "rendered"
    render_dataset(folder, train_per_letter=4, test_per_letter=0, size=48)
    return folder


def test_rows_say_where_the_hands_are(rendered: Path) -> None:
    with open_archive(rendered) as archive:
        pictures = scan(archive).pictures
        rows = true_rows(archive, [picture.id for picture in pictures])
    assert rows.keys() == {picture.id for picture in pictures}
    for picture in pictures:
        row = rows[picture.id]
        assert row.shape == (hands.ROW,)
        assert row[hands.SHAPE] == 1
        if picture.label != "Blank":
            assert row[hands.FOUND] == 1
        if row[hands.FOUND]:
            points, world = (row[part].reshape(hands.POINTS, 3) for part in (hands.PICTURE, hands.WORLD))
            assert ((points[:, :2] > 0) & (points[:, :2] < 1)).all()
            assert 0.05 < np.ptp(world, axis=0).max() < 0.25  # metres
            # The picture and space agree, but for the camera's nearness: both have y down, and z away from the viewer.
            assert (np.sign(points[12] - points[0]) == np.sign(world[12] - world[0])).sum() >= 2
    blanks = [rows[picture.id][hands.FOUND] for picture in pictures if picture.label == "Blank"]
    assert {*blanks} == {0, 1}  # some show a hand that makes another sign


def test_a_set_packed_with_its_folder_is_known(rendered: Path, tmp_path: Path) -> None:
    files = {f"inner/{p.relative_to(rendered)}": p.read_bytes() for p in rendered.rglob("*") if p.is_file()}
    with open_archive(write_zip(tmp_path / "set.zip", files)) as archive:
        pictures = scan(archive).pictures
        ids = [picture.id for picture in pictures]
        assert true_rows(archive, ids).keys() == {*ids} == rendered_among(archive, [*ids, "other/1.png"])


def test_of_several_archives_only_rendered_ones_know(rendered: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "photos", alphabet(1))
    with open_archives([rendered, other]) as archive:
        ids = [picture.id for picture in scan(archive).pictures]
        rows = true_rows(archive, ids)
        assert rendered_among(archive, ids) == rows.keys() == {name for name in ids if name.startswith("rendered/")}


def test_a_reader_of_rendered_hands_needs_no_teacher(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_hands_engine", lambda _: pytest.fail("nothing has to be looked for"))
    with open_archive(rendered) as archive:
        pictures = scan(archive).pictures
        rows = steps._hands_of(archive, tuple(pictures), load_recipe("reader"), lambda *_: None)
        expected = true_rows(archive, [picture.id for picture in pictures])
    np.testing.assert_array_equal(rows, [expected[picture.id] for picture in pictures])


def test_points_of_rendered_hands_are_learnt_as_the_detector_sees_them(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[np.ndarray] = []

    def kept(train: Examples, *rest: Any, **options: Any) -> Trained:
        learnt.append(train.features[:, 0])
        return train_points(train, *rest, **options)

    monkeypatch.setattr("fingerspell.training.train_points", kept)
    monkeypatch.setattr("fingerspell.hands.open_detector", lambda _: FakeDetector())
    one, other = (
        write_zip(
            tmp_path / f"{name}.zip",
            {f"{x}/{n}.png": noisy_picture(x, first + n) for x in LETTERS for n in range(3)},
        )
        for name, first in (("one", 0), ("other", 10))
    )
    held_out = {"split.protocol": "leave-one-group-out", "split.held_out": "other"}
    points = {"features.backbone": "hand-landmarks", "head.points.epochs": 1}
    runs.train([one, other, rendered], recipe="real", overrides=held_out | points, out=tmp_path / "run")
    with (tmp_path / "run" / "split.csv").open(newline="") as file:
        taught = [row["id"] for row in csv.DictReader(file) if row["role"] == "train"]
    drawn = sum(name.startswith("rendered/") for name in taught)
    assert drawn > 60
    assert len(learnt[0]) == len(taught) + drawn  # these are shown twice
    np.testing.assert_allclose(learnt[0][:, hands.SURE], 0.9, rtol=1e-6)  # of the truth it would be 1
    assert (learnt[0][:, hands.STEP] != hands.DRAWN).all()


def test_a_sign_that_is_no_letter_is_still_a_hand(rendered: Path, tmp_path: Path) -> None:
    with open_archive(rendered) as archive:
        pictures = [picture for picture in scan(archive).pictures if picture.label == "Blank"]
        rows = np.stack([*true_rows(archive, [picture.id for picture in pictures]).values()])
        _, _, trust, letters, shown = _lessons(archive, pictures, rows, tmp_path, lambda *_: None).facts
    assert (letters == 26).all()
    np.testing.assert_array_equal(shown, rows[:, hands.FOUND])
    np.testing.assert_array_equal(trust, rows[:, hands.FOUND])


@pytest.mark.parametrize("table", [b"path,side\nTrain_Alphabet/A/x.png,right\n", b"\xff\xfe", b"something else\n1\n"])
def test_a_table_of_something_else_is_refused(table: bytes, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {**alphabet(1), "hands.csv": table})
    with open_archive(folder) as archive, pytest.raises(DatasetError, match="not the table of a rendered set"):
        true_rows(archive, ["A/1.png"])


def test_rendered_pictures_of_no_letter_leave_those_of_people_their_room(rendered: Path, tmp_path: Path) -> None:
    blank = {f"Blank/{n}.png": noisy_picture("?", n) for n in range(5)}
    people = write_zip(
        tmp_path / "people.zip", {f"{x}/{n}.png": noisy_picture(x, n) for x in "AB" for n in range(3)} | blank
    )
    recipe = override(load_recipe("reader"), {"split.per_group": 2})
    with open_archives([rendered, people]) as archive:
        kept = steps.choose_spare_others(archive, scan(archive), (), recipe)
    assert Counter(picture.id.split("/")[0] for picture in kept) == {"rendered": 2, "people": 2}


def test_nothing_of_a_burst_that_is_asked_about_is_taught(tmp_path: Path) -> None:
    """A film in which only neighbours are near-copies, of which one picture is asked about; and another picture."""
    film = [Picture(f"nothing/{n}.png", "nothing", dhash=f"{2 ** (4 * n) - 1:016x}") for n in range(12)]
    other = Picture("nothing/other.png", "nothing", dhash=f"{2**64 - 1:016x}")
    letters = [Picture(f"{x}/1.png", x, dhash="0" * 16) for x in "AB"]
    dataset = Dataset("film.zip", (*letters, *film, other), {})
    with open_archive(write_zip(tmp_path / "film.zip", alphabet(1))) as archive:
        assert steps.choose_spare_others(archive, dataset, (film[0],), load_recipe("reader")) == (other,)
