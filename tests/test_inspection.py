"""What is in a data set, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fingerspell.archive import open_archive
from fingerspell.dataset import Dataset, Picture, scan
from fingerspell.inspection import Inspection, inspect, notes
from pictures import jpeg, numbered, png, write_zip

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    files = {
        "train/B/1.png": numbered(1),
        "train/B/2.png": numbered(2),
        "train/B/3.png": numbered(1),
        "train/A/1.jpg": jpeg("red", (20, 10)),
        "train/A/2.jpg": b"bad",
        "train/J/1.jpg": b"",
        "test/B/1.png": numbered(1),
        "test/nothing/1.png": png("white", (20, 10)),
        "train/hello/1.png": numbered(2),
        "readme.txt": b"x",
        "train/.DS_Store": b"x",
    }
    with open_archive(write_zip(tmp_path / "set.zip", files)) as archive:
        return inspect(scan(archive))


def test_name_and_all_pictures(inspection: Inspection) -> None:
    assert (inspection.name, inspection.pictures) == ("set.zip", 9)


def test_good_pictures_of_each_label_and_part(inspection: Inspection) -> None:
    assert inspection.labels == {"A": {"train": 1}, "B": {"train": 3, "test": 1}, "nothing": {"test": 1}}


def test_letters_come_first_and_in_order(inspection: Inspection) -> None:
    assert list(inspection.labels) == ["A", "B", "nothing"]


def test_letters_without_a_good_picture_are_missing(inspection: Inspection) -> None:
    assert "".join(inspection.missing_letters) == "CDEFGHIJKLMNOPQRSTUVWXYZ"


def test_every_problem_has_its_reason(inspection: Inspection) -> None:
    assert inspection.problems == {
        "train/A/2.jpg": "not a picture in a known format",
        "train/J/1.jpg": "empty file (0 bytes)",
        "train/hello/1.png": "unknown folder",
    }


def test_unknown_folders_and_ignored_files(inspection: Inspection) -> None:
    assert inspection.unknown_folders == {"train/hello": 1}
    assert inspection.ignored == {".txt": 1, ".DS_Store": 1}


def test_sizes_and_formats_of_good_pictures_the_most_frequent_first(inspection: Inspection) -> None:
    assert list(inspection.sizes.items()) == [("8x8", 4), ("20x10", 2)]
    assert list(inspection.formats.items()) == [("PNG", 5), ("JPEG", 1)]


def test_duplicates_are_those_beyond_the_first(inspection: Inspection) -> None:
    assert inspection.duplicates == 2


def test_a_set_without_good_pictures(tmp_path: Path) -> None:
    with open_archive(write_zip(tmp_path / "set.zip", {"A/1.jpg": b""})) as archive:
        inspection = inspect(scan(archive))
    assert (inspection.pictures, inspection.labels, inspection.sizes, inspection.duplicates) == (1, {}, {}, 0)
    assert len(inspection.missing_letters) == 26


def test_notes_say_what_a_run_leaves_out() -> None:
    pictures = [Picture("A/1.png", "A"), Picture("A/2.png", "A", problem="empty file (0 bytes)")]
    pictures += [Picture(f"odd{number}/1.png", "", problem="unknown folder") for number in range(7)]
    folders, bad = notes(Dataset("x.zip", tuple(pictures), {}))
    assert "odd0 (1), odd1 (1), odd2 (1), odd3 (1), odd4 (1) and 2 more" in folders
    assert "1 pictures of letters that cannot be read, such as A/2.png (empty file (0 bytes))" in bad
    assert notes(Dataset("x.zip", tuple(pictures[:1]), {})) == []
