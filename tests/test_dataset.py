"""From archives laid out in any way to the right table, and to a clear word where there is none."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import string
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from fingerspell import images
from fingerspell.alphabet import LETTERS
from fingerspell.archive import Archive, open_archive
from fingerspell.dataset import Dataset, Picture, _labels, scan
from fingerspell.errors import DatasetError
from pictures import alphabet, jpeg, numbered, png, png_claiming, write_folder, write_tar, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def scanned(path: Path, files: Mapping[str, bytes]) -> Dataset:
    with open_archive(write_zip(path / "set.zip", files)) as archive:
        return scan(archive)


def labels(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {picture.id: (picture.label, picture.part) for picture in dataset.pictures}


def scan_error(path: Path, files: Mapping[str, bytes]) -> str:
    with pytest.raises(DatasetError) as caught:
        scanned(path, files)
    return str(caught.value)


def letters_error(dataset: Dataset) -> str:
    with pytest.raises(DatasetError) as caught:
        dataset.letters()
    return str(caught.value)


class TestLayouts:
    """The class root is found by itself."""

    @pytest.mark.parametrize(
        "above", ["", "set/", "a/b/", "asl_alphabet_train/asl_alphabet_train/", "some data/version 2/pictures/", "C/x/"]
    )
    @pytest.mark.parametrize("below", ["", "session 1/", "x/y/"])
    def test_levels_above_and_below_the_classes_do_no_harm(self, tmp_path: Path, above: str, below: str) -> None:
        files = {f"{above}{x}/{below}{x}{n}.png": numbered(n) for x in "ABCJZ" for n in range(2)}
        found = labels(scanned(tmp_path, files))
        assert {name: label for name, (label, _) in found.items()} == {
            name: name.removeprefix(above)[0] for name in files
        }

    def test_kaggle(self, tmp_path: Path) -> None:
        train = {
            f"asl_alphabet_train/asl_alphabet_train/{x}/{x}1.jpg": jpeg() for x in (*LETTERS, "del", "nothing", "space")
        }
        test = {f"asl_alphabet_test/asl_alphabet_test/{x}_test.jpg": jpeg() for x in (*LETTERS, "nothing", "space")}
        found = labels(scanned(tmp_path, {**train, **test}))
        assert len(found) == 29 + 28
        assert found["asl_alphabet_train/asl_alphabet_train/A/A1.jpg"] == ("A", "train")
        assert found["asl_alphabet_train/asl_alphabet_train/del/del1.jpg"] == ("del", "train")
        assert found["asl_alphabet_test/asl_alphabet_test/A_test.jpg"] == ("A", "test")
        assert found["asl_alphabet_test/asl_alphabet_test/nothing_test.jpg"] == ("nothing", "test")
        assert {label for label, _ in found.values()} == {*LETTERS, "del", "nothing", "space"}

    def test_lexset(self, tmp_path: Path) -> None:
        name = "0a1b2c3d-0000-4000-8000-123456789012.png"
        files = {f"{part}_Alphabet/{x}/{name}": png() for part in ("Train", "Test") for x in (*LETTERS, "Blank")}
        found = labels(scanned(tmp_path, files))
        assert found[f"Train_Alphabet/Q/{name}"] == ("Q", "train")
        assert found[f"Test_Alphabet/Q/{name}"] == ("Q", "test")
        assert found[f"Test_Alphabet/Blank/{name}"] == ("Blank", "test")

    def test_a_flat_test_folder_beside_the_letters(self, tmp_path: Path) -> None:
        found = labels(scanned(tmp_path, {**alphabet(1), "test/a_TEST.JPG": jpeg(), "test/other.jpg": jpeg()}))
        assert found["test/a_TEST.JPG"] == ("A", "test")
        assert found["test/other.jpg"] == ("", "")

    def test_people_named_by_letters_above_the_letters(self, tmp_path: Path) -> None:
        files = {f"dataset5/{person}/{x}/color_{x}.png": png() for person in "ABCDE" for x in "abcdefghi"}
        found = labels(scanned(tmp_path, files))
        assert {name: label for name, (label, _) in found.items()} == {
            name: name.split("/")[2].upper() for name in files
        }

    def test_the_order_of_members_decides_nothing(self, tmp_path: Path) -> None:
        files = {**alphabet(2, folder="x/train/"), **alphabet(1, folder="x/test/")}
        backwards = dict(reversed(files.items()))
        assert labels(scanned(tmp_path, files)) == labels(scanned(tmp_path, backwards))

    @pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
    def test_every_kind_of_archive_gives_the_same_rows(self, tmp_path: Path, kind: str) -> None:
        files = dict(sorted(alphabet(2, letters="AB").items()))
        writers: dict[str, Callable[[Path, dict[str, bytes]], Path]]
        writers = {"zip": write_zip, "tar": write_tar, "folder": write_folder}
        with open_archive(writers[kind](tmp_path / "set", files)) as archive:
            assert scan(archive).pictures == scanned(tmp_path, files).pictures

    @given(
        above=st.lists(st.sampled_from(["data", "asl", "v1.2", "my pictures", "Z"]), max_size=3),
        below=st.lists(st.sampled_from(["morning", "left", "1", "b"]), max_size=2),
        letters=st.sets(st.sampled_from(LETTERS), min_size=3),
        lower=st.booleans(),
    )
    @settings(max_examples=50, deadline=None)
    def test_any_nesting(self, above: list[str], below: list[str], letters: set[str], lower: bool) -> None:
        folders = {letter: letter.lower() if lower else letter for letter in letters}
        paths = {"/".join([*above, folder, *below, "1.jpg"]): letter for letter, folder in folders.items()}
        assert {path: label for path, (label, _) in _labels(list(paths)).items()} == paths


class TestParts:
    @pytest.mark.parametrize(
        ("folder", "part"),
        [
            ("train", "train"),
            ("Training", "train"),
            ("asl_alphabet_train", "train"),
            ("Train_Alphabet", "train"),
            ("test", "test"),
            ("TEST", "test"),
            ("testing-set", "test"),
            ("val", "validation"),
            ("valid", "validation"),
            ("my validation pictures", "validation"),
            ("trains", ""),
            ("contest", ""),
            ("interval", ""),
            ("latest", ""),
            ("pictures", ""),
            ("train_test_split", ""),
            ("train_test_split/test", "test"),
            ("test_set/train", "train"),
            ("train/2024", "train"),
        ],
    )
    def test_the_deepest_folder_that_names_one_part_counts(self, tmp_path: Path, folder: str, part: str) -> None:
        found = labels(scanned(tmp_path, alphabet(1, folder=f"{folder}/", letters="AB")))
        assert set(found.values()) == {("A", part), ("B", part)}

    def test_the_name_of_a_picture_is_no_part(self, tmp_path: Path) -> None:
        assert labels(scanned(tmp_path, {"A/train_1.png": png()})) == {"A/train_1.png": ("A", "")}


class TestClasses:
    @pytest.mark.parametrize(
        ("folder", "label"),
        [
            ("A", "A"),
            ("a", "A"),
            ("z", "Z"),
            (" B ", "B"),
            ("del", "del"),
            ("DEL", "del"),
            ("Nothing", "nothing"),
            ("SPACE", "space"),
            ("blank", "Blank"),
            ("Blank", "Blank"),
            ("AB", ""),
            ("1", ""),
            ("delete", ""),
            ("Ä", ""),
        ],
    )
    def test_folder_names_in_any_case(self, tmp_path: Path, folder: str, label: str) -> None:
        found = labels(scanned(tmp_path, {"K/1.png": png(), f"{folder}/1.png": png()}))
        assert found[f"{folder}/1.png"] == (label, "")

    @pytest.mark.parametrize(
        ("one", "other", "label"),
        [("A", "a", "A"), ("del", "Del", "del"), ("B", "B ", "B"), ("BLANK", "blank", "Blank")],
    )
    def test_two_spellings_in_one_root_are_refused(self, tmp_path: Path, one: str, other: str, label: str) -> None:
        first, second = sorted([one, other])
        assert scan_error(tmp_path, {f"set/{one}/1.png": png(), f"set/{other}/1.png": png()}) == (
            f"two folders for one class in set: {first!r} and {second!r} both mean {label}. "
            "Whether they belong together cannot be guessed: merge or rename one of them."
        )

    def test_two_spellings_in_two_roots_are_fine(self, tmp_path: Path) -> None:
        found = labels(scanned(tmp_path, {"train/A/1.png": png(), "test/a/1.png": png()}))
        assert set(found.values()) == {("A", "train"), ("A", "test")}

    def test_a_second_spelling_without_pictures_is_fine(self, tmp_path: Path) -> None:
        assert len(scanned(tmp_path, {"A/1.png": png(), "a/notes.txt": b""}).pictures) == 1

    def test_unknown_folders_are_named_and_their_pictures_left_out(self, tmp_path: Path) -> None:
        files = {
            **alphabet(2),
            "set/hello/1.png": png(),
            "thumbs/1.png": png(),
            "thumbs/2.png": png(),
            "cover.png": png(),
        }
        dataset = scanned(tmp_path, files)
        assert dataset.unknown_folders == {"set/hello": 1, "thumbs": 2, "(top level)": 1}
        assert {p.id for p in dataset.pictures if p.problem == "unknown folder"} == files.keys() - alphabet(2).keys()
        assert len(dataset.letters()) == 52

    def test_non_letters_are_known_and_are_no_letters(self, tmp_path: Path) -> None:
        files = {**alphabet(1), **{f"{name}/1.png": png() for name in ("del", "nothing", "space", "Blank")}}
        dataset = scanned(tmp_path, files)
        assert dataset.unknown_folders == {}
        assert not any(picture.problem for picture in dataset.pictures)
        assert {picture.label for picture in dataset.letters()} == set(LETTERS)


class TestIgnored:
    def test_what_is_no_picture_is_counted_by_kind(self, tmp_path: Path) -> None:
        clutter = (
            ".DS_Store A/.DS_Store A/Thumbs.db B/Thumbs.db __MACOSX/._A __MACOSX/A/._A1.jpg labels.csv A/notes.txt "
            "A/._A1.jpg A/.ipynb_checkpoints/A1.png LICENSE .gitignore"
        )
        files = {**alphabet(1), **dict.fromkeys(clutter.split(), jpeg())}
        dataset = scanned(tmp_path, files)
        assert {picture.id for picture in dataset.pictures} == alphabet(1).keys()
        assert dataset.ignored == {
            ".DS_Store": 2,
            ".db": 2,
            "__MACOSX": 2,
            ".csv": 1,
            ".txt": 1,
            "hidden": 2,
            "LICENSE": 1,
            ".gitignore": 1,
        }

    @pytest.mark.parametrize(
        "suffix", [".jpg", ".JPG", ".jpeg", ".Png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"]
    )
    def test_picture_suffixes_in_any_case(self, tmp_path: Path, suffix: str) -> None:
        assert len(scanned(tmp_path, {f"A/1{suffix}": png()}).letters()) == 1


class TestRows:
    def test_every_column(self, tmp_path: Path) -> None:
        picture, photo = png("blue", (7, 5)), jpeg("red", (30, 20))
        dataset = scanned(tmp_path, {"train/B/img_0042.png": picture, "val/a/front.JPG": photo})
        assert dataset.pictures == (
            Picture(
                "train/B/img_0042.png", "B", hashlib.sha256(picture).hexdigest(), 7, 5, "PNG", 42, "train", "", "0" * 16
            ),
            Picture(
                "val/a/front.JPG",
                "A",
                hashlib.sha256(photo).hexdigest(),
                30,
                20,
                "JPEG",
                None,
                "validation",
                "",
                "0" * 16,
            ),
        )

    def test_the_size_is_that_of_the_upright_picture(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        (picture,) = scanned(tmp_path, {"A/1.jpg": jpeg("red", (30, 20), exif=exif)}).pictures
        assert (picture.width, picture.height) == (20, 30)

    def test_rows_come_in_the_order_of_the_archive(self, tmp_path: Path) -> None:
        files = dict(reversed(alphabet(3).items()))
        assert [picture.id for picture in scanned(tmp_path, files).pictures] == list(files)

    @pytest.mark.parametrize(
        ("name", "frame"),
        [
            ("A123", 123),
            ("img_0007", 7),
            ("7", 7),
            ("0", 0),
            ("a (12)", None),
            ("hand", None),
            ("3d_model", None),
            ("take2_frame10", 10),
            ("B-0001", 1),
            ("IMG_20240102_123456", 123456),
            ("20240102123456", 20240102123456),
            ("A-20240101-000017", 17),
            ("frame1000000000", 1000000000),
            ("0a1b2c3d-0000-4000-8000-123456789012", None),
            ("A_0A1B2C3D-0000-4000-8000-123456789012", None),
            ("12345678-0000-4000-8000-123456789012", None),
            ("d41d8cd98f00b204e9800998ecf84271", None),
            ("A1_jpg.rf.d41d8cd98f00b204e9800998ecf84271", None),
            ("9" * 19, None),
        ],
    )
    def test_frame_number(self, tmp_path: Path, name: str, frame: int | None) -> None:
        assert scanned(tmp_path, {f"A/{name}.png": png()}).pictures[0].frame == frame

    def test_csv_round_trip(self, tmp_path: Path) -> None:
        files = {"A/A1.png": png(), 'B/a "quoted", name.png': png("blue"), "C/bad.jpg": b"text", "x/é.png": png()}
        dataset = scanned(tmp_path, files)
        header, *rows = csv.reader(io.StringIO(dataset.to_csv()))
        assert header == ["id", "label", "sha256", "width", "height", "format", "frame", "part", "problem", "dhash"]
        assert dataset.pictures == tuple(
            Picture(name, label, sha256, int(width), int(height), form, int(frame) if frame else None, *rest)
            for name, label, sha256, width, height, form, frame, *rest in rows
        )

    def test_the_digest_hangs_on_names_labels_and_contents(self, tmp_path: Path) -> None:
        base = {"A/1.png": png("red"), "B/1.png": png("blue")}
        others: list[dict[str, bytes]] = [
            {"A/1.png": png("red"), "B/1.png": png("green")},
            {"A/1.png": png("red"), "B/2.png": png("blue")},
            {"A/1.png": png("red")},
        ]
        digests = {scanned(tmp_path, files).digest for files in (base, *others)}
        assert len(digests) == 4
        assert scanned(tmp_path, {**base, "notes.txt": b""}).digest in digests

    def test_the_name_is_that_of_the_archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_folder(tmp_path / "hands", alphabet(1))
        monkeypatch.chdir(folder)
        with open_archive(".") as archive:
            assert scan(archive).name == "hands"
        assert scanned(tmp_path, alphabet(1)).name == "set.zip"

    def test_progress_is_told(self, tmp_path: Path) -> None:
        told: list[tuple[str, int, int]] = []
        with open_archive(write_zip(tmp_path / "set.zip", alphabet(1, letters="AB"))) as archive:
            scan(archive, on_progress=lambda *step: told.append(step))
        assert told == [("Reading pictures", 1, 2), ("Reading pictures", 2, 2)]


class TestBadPictures:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file (0 bytes)"),
            (b"I am no picture", "not a picture in a known format"),
            (jpeg(NOISE)[:2000], "damaged picture (image file is truncated"),
            (png_claiming(30_000, 30_000), "too many pixels (at most 64,000,000 are read)"),
            (png_claiming(9_000, 8_000), "too many pixels (9000x8000 = 72,000,000, at most 64,000,000 are read)"),
        ],
        ids=["empty", "text", "cut", "bomb", "small bomb"],
    )
    def test_it_is_listed_and_the_rest_is_read(self, tmp_path: Path, data: bytes, reason: str) -> None:
        dataset = scanned(tmp_path, {"A/bad.jpg": data, **alphabet(1)})
        bad, *good = dataset.pictures
        assert bad.problem.startswith(reason)
        assert (bad.id, bad.label, bad.width, bad.height, bad.format) == ("A/bad.jpg", "A", 0, 0, "")
        assert dataset.letters() == tuple(good)
        assert len(good) == 26

    def test_a_member_that_cannot_be_read_has_no_digest(self, tmp_path: Path) -> None:
        (bad,) = scanned(tmp_path, {"../A/1.png": png()}).pictures
        assert (bad.label, bad.sha256, bad.problem) == ("A", "", "name points outside the archive")

    def test_a_tenth_bad_is_borne(self, tmp_path: Path) -> None:
        files = {**alphabet(9, letters="AB"), "A/x.jpg": b"bad", "B/x.jpg": b"bad"}
        assert len(scanned(tmp_path, files).letters()) == 18

    def test_more_than_a_tenth_bad_is_refused(self, tmp_path: Path) -> None:
        files = {**alphabet(9, letters="AB"), "A/x.jpg": b"bad", "B/x.jpg": b"bad", "B/y.jpg": b"bad"}
        assert letters_error(scanned(tmp_path, files)) == (
            "set.zip: 3 of 21 pictures of letters cannot be read, more than 10% (the first, A/x.jpg: not a picture in "
            "a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM)). The archive seems broken: fetch it again, or see "
            "all problems with `fingerspell inspect`."
        )

    def test_bad_pictures_of_non_letters_do_not_count(self, tmp_path: Path) -> None:
        files = {**alphabet(1), **{f"nothing/{n}.jpg": b"bad" for n in range(20)}}
        assert len(scanned(tmp_path, files).letters()) == 26

    def test_a_letter_that_would_be_empty_is_refused(self, tmp_path: Path) -> None:
        files = {**alphabet(50, letters="AB"), "C/1.jpg": b"", "C/2.jpg": b"bad"}
        assert letters_error(scanned(tmp_path, files)) == (
            "set.zip: letter C would be empty: none of its 2 pictures can be read (the first, C/1.jpg: empty file (0 "
            "bytes)). Repair or remove that folder."
        )

    def test_a_letter_that_is_not_there_is_no_error(self, tmp_path: Path) -> None:
        assert {p.label for p in scanned(tmp_path, alphabet(2, letters="AB")).letters()} == {"A", "B"}

    @pytest.mark.parametrize(
        ("names", "where"),
        [
            (["cats/1.png", "cats/2.png", "dogs/1.png"], "Found 3 pictures in: cats, dogs."),
            (["1.png"], "Found 1 pictures in: (top level)."),
            (["nothing/1.png", "Blank/1.png"], "Found 2 pictures in: non-letters only."),
            ([f"{x}{x}/1.png" for x in "abcdefg"], "Found 7 pictures in: aa, bb, cc, dd, ee."),
        ],
    )
    def test_no_letters_at_all(self, tmp_path: Path, names: Iterable[str], where: str) -> None:
        assert letters_error(scanned(tmp_path, dict.fromkeys(names, png()))) == (
            f"set.zip: no pictures of letters. {where} Expected folders named after the letters (A/, B/, ..., in any "
            "case, one or more levels down)."
        )

    @pytest.mark.parametrize("files", [{}, {"notes.txt": b"x", "A/clip.mp4": b"x"}])
    def test_no_pictures_at_all(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        assert scan_error(tmp_path, files) == (
            f"{tmp_path / 'set.zip'}: no pictures found among {len(files)} files. "
            "Expected one folder a letter (A/, B/, ...) with JPEG or PNG pictures."
        )

    @given(
        files=st.dictionaries(
            st.text(string.ascii_letters + "/._- ", min_size=1, max_size=12).map(lambda name: f"{name}.png"),
            st.sampled_from([png(), jpeg(), b"", b"text", jpeg()[:200]]),
            min_size=1,
            max_size=8,
        )
    )
    @settings(max_examples=50, deadline=None)
    def test_every_member_is_a_row_or_is_counted(
        self, tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
    ) -> None:
        with open_archive(write_zip(tmp_path_factory.mktemp("any") / "set.zip", files)) as archive:
            try:
                dataset = scan(archive)
            except DatasetError as error:
                assert str(error)  # noqa: PT017 - two spellings, or nothing but hidden files
            else:
                assert len(dataset.pictures) + sum(dataset.ignored.values()) == len(archive.members)


class TestMemory:
    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the members that were read."""
        names: list[str] = []
        read = Archive.read

        def counted(archive: Archive, name: str) -> bytes:
            names.append(name)
            return read(archive, name)

        monkeypatch.setattr(Archive, "read", counted)
        return names

    FILES = {**alphabet(1), "A/bad.png": b"bad", "hello/1.png": png(), "notes.txt": b"x"}  # noqa: RUF012

    def scan(self, tmp_path: Path, path: Path) -> Dataset:
        with open_archive(path) as archive:
            return scan(archive, memory=tmp_path / "memory")

    def test_an_unchanged_archive_is_read_once(self, tmp_path: Path, reads: list[str]) -> None:
        path = write_zip(tmp_path / "set.zip", self.FILES)
        first = self.scan(tmp_path, path)
        assert len(reads) == 28
        assert self.scan(tmp_path, path) == first
        assert len(reads) == 28

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"ignored": {}, "pictures": [[1]]}'])
    def test_a_damaged_memory_is_no_harm(self, tmp_path: Path, reads: list[str], damage: str) -> None:
        path = write_zip(tmp_path / "set.zip", self.FILES)
        first = self.scan(tmp_path, path)
        (remembered,) = (tmp_path / "memory").iterdir()
        remembered.write_text(damage)
        assert self.scan(tmp_path, path) == first
        assert len(reads) == 2 * 28

    def test_without_memory_it_is_read_again(self, tmp_path: Path, reads: list[str]) -> None:
        for _ in range(2):
            scanned(tmp_path, alphabet(1))
        assert len(reads) == 52

    def test_a_changed_archive_is_read_again(self, tmp_path: Path, reads: list[str]) -> None:
        path = write_zip(tmp_path / "set.zip", self.FILES)
        self.scan(tmp_path, path)
        write_zip(path, {**self.FILES, "B/more.png": png("green")})
        assert "B/more.png" in {picture.id for picture in self.scan(tmp_path, path).pictures}
        assert len(reads) == 28 + 29

    def test_a_changed_file_of_a_folder_is_read_again(self, tmp_path: Path, reads: list[str]) -> None:
        folder = write_folder(tmp_path / "set", alphabet(1))
        before = self.scan(tmp_path, folder)
        file = folder / "A" / "A1.png"
        time = file.stat().st_mtime_ns
        file.write_bytes(numbered(77))
        os.utime(file, ns=(time, time + 1_000_000))
        assert self.scan(tmp_path, folder).digest != before.digest
        assert len(reads) == 52

    def test_a_renamed_archive_is_known_again_under_its_new_name(self, tmp_path: Path, reads: list[str]) -> None:
        path = write_zip(tmp_path / "set.zip", self.FILES)
        first = self.scan(tmp_path, path)
        renamed = self.scan(tmp_path, path.rename(tmp_path / "new.zip"))
        assert (renamed.name, renamed.pictures) == ("new.zip", first.pictures)
        assert len(reads) == 28

    def test_a_refused_scan_is_not_remembered(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "set.zip", {"A/1.png": png(), "a/1.png": png()})
        for _ in range(2):
            with pytest.raises(DatasetError, match="two folders for one class"):
                self.scan(tmp_path, path)


def test_a_scan_holds_few_files_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of large pictures must not be held in memory as a whole."""
    drawn: list[str] = []
    ahead: list[int] = []
    read = Archive.read

    def counted(archive: Archive, name: str) -> bytes:
        drawn.append(name)
        return read(archive, name)

    monkeypatch.setattr(Archive, "read", counted)
    with open_archive(write_zip(tmp_path / "set.zip", alphabet(8))) as archive:
        scan(archive, on_progress=lambda _, done, __: ahead.append(len(drawn) - done))
    assert len(drawn) == 208
    assert max(ahead) <= 64


def test_a_scan_examines_every_picture_once_and_decodes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[bytes] = []
    examine = images.examine

    def counted(data: bytes) -> images.Examined:
        examined.append(data)
        return examine(data)

    monkeypatch.setattr(images, "examine", counted)
    monkeypatch.delattr(images, "decode")
    files = alphabet(2)
    assert len(scanned(tmp_path, files).pictures) == 52
    assert sorted(examined) == sorted(files.values())
