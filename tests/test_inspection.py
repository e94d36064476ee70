"""What is in a data set, counted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from conftest import REPOSITORY
from fingerspell.alphabet import LETTERS, is_letter
from fingerspell.archive import Archive, open_archive
from fingerspell.dataset import Dataset, Picture, scan
from fingerspell.inspection import Finding, Inspection, inspect, notes
from fingerspell.looks import measure
from fingerspell.rendering import render_letter
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
        return inspected(archive)


def inspected(archive: Archive) -> Inspection:
    dataset = scan(archive)
    letters = [picture for picture in dataset.pictures if is_letter(picture.label) and not picture.problem]
    return inspect(dataset, measure(archive, letters))


def codes(inspection: Inspection) -> dict[str, Finding]:
    return {finding.code: finding for finding in inspection.findings}


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
        "train/A/2.jpg": "not a picture in a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM)",
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
        inspection = inspected(archive)
    assert (inspection.pictures, inspection.labels, inspection.sizes, inspection.duplicates) == (1, {}, {}, 0)
    assert len(inspection.missing_letters) == 26


def test_notes_say_what_a_run_leaves_out() -> None:
    pictures = [Picture("A/1.png", "A"), Picture("A/2.png", "A", problem="empty file (0 bytes)")]
    pictures += [Picture(f"odd{number}/1.png", "", problem="unknown folder") for number in range(7)]
    bad, folders = notes(Dataset("x.zip", tuple(pictures), {}))
    assert "odd0 (1), odd1 (1), odd2 (1), odd3 (1), odd4 (1) and 2 more" in folders
    assert "1 pictures of letters cannot be read and are left out, such as A/2.png (empty file (0 bytes))" in bad
    assert notes(Dataset("x.zip", tuple(pictures[:1]), {})) == []


def test_findings_of_a_small_bad_set(inspection: Inspection) -> None:
    found = codes(inspection)
    assert list(found) == sorted(found)
    assert {"FS001", "FS002", "FS006", "FS008", "FS009", "FS012", "FS014", "FS015", "FS016"} <= set(found)
    assert found["FS002"].pictures == ("train/B/3.png", "test/B/1.png")
    assert "J" in found["FS006"].text
    assert str(found["FS016"]).startswith("FS016 pictures of no letter: nothing (1)")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes of eight frames of A and of B, in different light, and one scene of J."""
    files = {}
    for letter, scenes in (("A", 5), ("B", 5), ("J", 1)):
        for scene in range(scenes):
            hand = render_letter(letter, np.random.default_rng([ord(letter), scene]), 96)
            for frame in range(8):
                shade = 0.05 if letter == "B" and scene == 0 else 1.0
                pixels = (hand * shade).astype(np.uint8)
                pixels[0, frame] = 255
                files[f"{letter}/{letter}{8 * scene + frame + 1}.png"] = png(pixels)
    return write_zip(tmp_path_factory.mktemp("films") / "films.zip", files)


def test_films_leak_in_a_random_split_and_not_by_bursts(films: Path) -> None:
    with open_archive(films) as archive:
        inspection = inspected(archive)
    assert inspection.bursts == {"A": 5, "B": 5, "J": 1}
    leaks = {leak.protocol: leak for leak in inspection.leaks}
    assert (leaks["random"].share or 0) > 0.9
    assert leaks["bursts"].share == 0
    assert leaks["groups"].share is None
    assert "--groups" in leaks["groups"].note
    finding = codes(inspection)["FS003"]
    assert "of test pictures of --split random" in finding.text
    assert "Use --split" in finding.text
    assert "bursts" in finding.text.partition("Use --split")[2]


def test_looks_of_films(films: Path) -> None:
    with open_archive(films) as archive:
        found = codes(inspected(archive))
    assert "8 of 88 pictures (9%)" in found["FS010"].text
    assert set(found["FS010"].pictures) == {f"B/B{frame}.png" for frame in range(1, 9)}
    assert "88 pictures of letters are 11 bursts" in found["FS004"].text
    assert "J (1)" in found["FS009"].text


def test_one_picture_under_two_letters(tmp_path: Path) -> None:
    files = {f"{letter}/1.png": numbered(number) for number, letter in enumerate(LETTERS)} | {"S/2.png": numbered(0)}
    with open_archive(write_zip(tmp_path / "set.zip", files)) as archive:
        finding = codes(inspected(archive))["FS005"]
    assert finding.pictures == ("A/1.png", "S/2.png")


def test_looks_are_remembered(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_archive(films) as archive:
        letters = list(scan(archive).letters())
        first = measure(archive, letters, memory=tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Archive, "read", lambda _, member: pytest.fail(f"{member} was read"))
            again = measure(archive, letters, memory=tmp_path)
        np.testing.assert_array_equal(first.sharpness, again.sharpness)
        (remembered,) = tmp_path.iterdir()
        remembered.write_text("[[1, 2]]")
        np.testing.assert_array_equal(measure(archive, letters, memory=tmp_path).sharpness, first.sharpness)


def test_every_code_is_in_the_documents() -> None:
    code = (REPOSITORY / "src" / "fingerspell" / "inspection.py").read_text()
    found = dict(re.findall(r'"(FS\d{3})",\s*"([^"]+)"', code))
    documented = dict(
        re.findall(r"^\| (FS\d{3}) \| ([^|]+) \|", (REPOSITORY / "docs" / "findings.md").read_text(), re.MULTILINE)
    )
    assert found == documented
    assert len(found) == 17
