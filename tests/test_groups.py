"""Who is on a picture: the archive, or the signer that a list in it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fingerspell.archive import open_archives
from fingerspell.errors import SplitError
from fingerspell.groups import groups_of
from pictures import png, write_zip

FILES = {"A/1.png": png("red"), "B/1.png": png("blue")}
SIGNERS = b"path,signer\nA/1.png,ann\nB/1.png,bob\n"


def archives(folder: Path, signers: bytes = SIGNERS) -> list[Path]:
    """One person, and two whose list is in the archive."""
    return [
        write_zip(folder / "one.zip", FILES),
        write_zip(folder / "two.zip", FILES | {"signers.csv": signers}),
    ]


def test_the_archive_or_below_it_the_signer(tmp_path: Path) -> None:
    with open_archives(archives(tmp_path)) as archive:
        assert groups_of(archive, ["two/B/1.png", "one/A/1.png", "one/B/1.png", "two/A/1.png"]) == {
            "one/A/1.png": "one",
            "one/B/1.png": "one",
            "two/A/1.png": "two/ann",
            "two/B/1.png": "two/bob",
        }


def test_an_archive_alone_has_its_signers_or_nobody(tmp_path: Path) -> None:
    one, two = archives(tmp_path)
    with open_archives(one) as archive:
        assert groups_of(archive, list(FILES)) == {}
    with open_archives(two) as archive:
        assert groups_of(archive, list(FILES)) == {"A/1.png": "ann", "B/1.png": "bob"}


def test_a_set_may_be_packed_with_its_folder(tmp_path: Path) -> None:
    packed = {f"set/{name}": data for name, data in FILES.items()}
    table = {"set/signers.csv": b"path,signer\nA/1.png,ann\nB/1.png,bob\n"}
    with open_archives(write_zip(tmp_path / "two.zip", packed | table)) as archive:
        assert groups_of(archive, list(packed)) == {"set/A/1.png": "ann", "set/B/1.png": "bob"}
        assert groups_of(archive, [*packed, "other/A/1.png"]) == {}


def test_a_file_that_is_named_counts_alone(tmp_path: Path) -> None:
    table = tmp_path / "who.csv"
    table.write_text("path,room,who\none/A/1.png,x,eve\ntwo/A/1.png,x,ann\n")
    ids = ["one/A/1.png", "two/A/1.png"]
    with open_archives(archives(tmp_path)) as archive:
        assert groups_of(archive, ids, f"{table}:who") == {"one/A/1.png": "eve", "two/A/1.png": "ann"}
        with pytest.raises(SplitError, match=r"'nobody.csv': found neither on disk nor in one.zip \+ two.zip"):
            groups_of(archive, ids, "nobody.csv")


def test_a_list_that_lacks_a_picture_is_refused(tmp_path: Path) -> None:
    with open_archives(archives(tmp_path, b"path,signer\nA/1.png,ann\n")) as archive:
        with pytest.raises(SplitError, match=r"1 of 1 pictures have no group \(the first: B/1.png\)"):
            groups_of(archive, ["two/B/1.png"])
