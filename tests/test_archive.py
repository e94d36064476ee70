"""Zip, tar and folder: the same members and bytes from each, nothing written, a reason for what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest

from fingerspell.archive import MAX_MEMBER_BYTES, Archive, open_archive, open_archives, stem_of
from fingerspell.dataset import scan
from fingerspell.errors import ArchiveError, FingerspellError, UnreadableError
from pictures import alphabet, jpeg, png, write_folder, write_tar, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES = {
    "set/A/A1.jpg": jpeg("red"),
    "set/A/A2.png": png("blue"),
    "set/B/B1.jpg": jpeg("green"),
    "set/list.csv": b"a,b\n",
}

KINDS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "zip": write_zip,
    "deflated zip": lambda path, files: write_zip(path, files, zipfile.ZIP_DEFLATED),
    "tar": write_tar,
    "tar.gz": lambda path, files: write_tar(path, files, "gz"),
    "tar.bz2": lambda path, files: write_tar(path, files, "bz2"),
    "tar.xz": lambda path, files: write_tar(path, files, "xz"),
    "folder": write_folder,
}


def contents(archive: Archive) -> dict[str, bytes]:
    return {member.name: archive.read(member.name) for member in archive.members}


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder with what changes when somebody writes."""
    return {
        str(file): (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_mode) for file in folder.rglob("*")
    }


def problems(path: Path) -> dict[str, str]:
    with open_archive(path) as archive:
        return {member.name: member.problem for member in archive.members}


class TestOneInterface:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_gives_the_same_members_and_bytes(self, tmp_path: Path, kind: str) -> None:
        with open_archive(KINDS[kind](tmp_path / "archive", FILES)) as archive:
            assert contents(archive) == FILES
            assert {member.name: member.size for member in archive.members} == {n: len(d) for n, d in FILES.items()}
            assert not any(member.problem for member in archive.members)

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
    @pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.jpg", "x"])
    def test_content_and_not_the_suffix_decides(self, tmp_path: Path, kind: str, name: str) -> None:
        with open_archive(KINDS[kind](tmp_path / name, FILES)) as archive:
            assert contents(archive) == FILES

    def test_a_path_may_be_a_string(self, tmp_path: Path) -> None:
        with open_archive(str(write_zip(tmp_path / "a.zip", FILES))) as archive:
            assert contents(archive) == FILES

    @pytest.mark.parametrize("kind", KINDS)
    def test_members_can_be_read_in_any_order_and_twice(self, tmp_path: Path, kind: str) -> None:
        with open_archive(KINDS[kind](tmp_path / "archive", FILES)) as archive:
            for name in [*reversed(FILES), *FILES]:
                assert archive.read(name) == FILES[name]

    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_is_written_or_changed(self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = KINDS[kind](tmp_path / "source" / "archive" if kind == "folder" else tmp_path / "archive", FILES)
        monkeypatch.chdir(tmp_path)
        before = listing(tmp_path)
        with open_archive(path) as archive:
            scan(archive)
            contents(archive)
        assert listing(tmp_path) == before

    def test_directory_entries_are_no_members(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(write_folder(tmp_path / "folder", FILES) / "set", "set")
        write_zip(tmp_path / "a.zip", {"set/": b"", "set/A/": b"", **FILES})
        assert set(problems(path)) == set(problems(tmp_path / "a.zip")) == set(FILES)

    @pytest.mark.parametrize("written", ["./A/1.jpg", "A\\1.jpg"])
    def test_names_are_spelled_one_way(self, tmp_path: Path, written: str) -> None:
        with open_archive(write_zip(tmp_path / "a.zip", {written: b"x"})) as archive:
            assert contents(archive) == {"A/1.jpg": b"x"}

    def test_of_two_entries_of_one_name_the_last_counts(self, tmp_path: Path) -> None:
        with open_archive(write_tar(tmp_path / "a.tar", {"./A/1.jpg": b"first", "A/1.jpg": b"last"})) as archive:
            assert contents(archive) == {"A/1.jpg": b"last"}

    def test_a_tar_that_ends_with_a_zip_is_a_tar(self, tmp_path: Path) -> None:
        inner = write_zip(tmp_path / "inner.zip", {"Z/1.jpg": b"inner"}).read_bytes()
        assert set(problems(write_tar(tmp_path / "a.tar", {**FILES, "more.zip": inner}))) == {*FILES, "more.zip"}

    def test_a_tar_whose_first_name_starts_like_a_zip_is_a_tar(self, tmp_path: Path) -> None:
        assert set(problems(write_tar(tmp_path / "a.tar", {"PK/A/1.jpg": b"x"}))) == {"PK/A/1.jpg"}

    def test_a_zip_behind_other_bytes_is_a_zip(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)
        path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
        with open_archive(path) as archive:
            assert contents(archive) == FILES

    def test_a_file_name_that_is_no_text_does_no_harm(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"A/1.jpg": b"x"})
        (folder / "A" / os.fsdecode(b"\xff.jpg")).write_bytes(b"y")
        with open_archive(folder) as archive:
            assert contents(archive) == {"A/1.jpg": b"x", "A/\\udcff.jpg": b"y"}

    def test_links_out_of_a_folder_are_not_followed(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"A/1.jpg": b"x"})
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere")
        assert set(problems(folder)) == {"A/1.jpg"}

    def test_closing_releases_the_file(self, tmp_path: Path) -> None:
        with open_archive(write_zip(tmp_path / "a.zip", FILES)) as archive:
            pass
        with pytest.raises(FingerspellError):
            archive.read("set/A/A1.jpg")


class TestFingerprint:
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_for_an_untouched_archive(self, tmp_path: Path, kind: str) -> None:
        path = KINDS[kind](tmp_path / "archive", FILES)
        with open_archive(path) as first, open_archive(path) as second:
            assert first.fingerprint == second.fingerprint

    @pytest.mark.parametrize("kind", KINDS)
    def test_changes_with_a_member_of_the_same_size(self, tmp_path: Path, kind: str) -> None:
        path = KINDS[kind](tmp_path / "archive", {"A/1.jpg": b"one", "A/2.jpg": b"two"})
        with open_archive(path) as archive:
            before = archive.fingerprint
        KINDS[kind](path, {"A/1.jpg": b"one", "A/2.jpg": b"six"})
        changed = path / "A" / "2.jpg" if kind == "folder" else path
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1_000_000))
        with open_archive(path) as archive:
            assert archive.fingerprint != before

    def test_changes_with_a_name(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"A/1.jpg": b"one"})
        with open_archive(folder) as archive:
            before = archive.fingerprint
        (folder / "A" / "1.jpg").rename(folder / "A" / "2.jpg")
        with open_archive(folder) as archive:
            assert archive.fingerprint != before


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def not_an_archive(path: Path) -> None:
    path.write_bytes(jpeg())


def empty(path: Path) -> None:
    path.touch()


def missing(path: Path) -> None:
    assert not path.exists()


def cut_zip(path: Path) -> None:
    path.write_bytes(cut(write_zip(path, FILES).read_bytes(), 0.9))


def cut_tar_in_a_picture(path: Path) -> None:
    path.write_bytes(write_tar(path, {"A/1.jpg": bytes(2000), "A/2.jpg": bytes(2000)}).read_bytes()[:4096])


def cut_tar_in_a_header(path: Path) -> None:
    path.write_bytes(write_tar(path, {"A/1.jpg": bytes(512), "A/2.jpg": bytes(512)}).read_bytes()[:1200])


def cut_tar_between_two_pictures(path: Path) -> None:
    path.write_bytes(write_tar(path, {"A/1.jpg": bytes(512), "A/2.jpg": bytes(512)}).read_bytes()[:1024])


def tar_with_a_damaged_header(path: Path) -> None:
    data = bytearray(write_tar(path, {"A/1.jpg": bytes(512), "A/2.jpg": bytes(512)}).read_bytes())
    data[1024:1030] = b"\xff" * 6
    path.write_bytes(data)


def cut_tar_gz(path: Path) -> None:
    path.write_bytes(cut(write_tar(path, {"A/1.jpg": os.urandom(20_000)}, "gz").read_bytes(), 0.5))


def cut_tar_gz_at_once(path: Path) -> None:
    path.write_bytes(write_tar(path, FILES, "gz").read_bytes()[:20])


def damaged_tar_gz(path: Path) -> None:
    data = bytearray(write_tar(path, FILES, "gz").read_bytes())
    data[-8] ^= 0xFF  # the checksum: four bytes, then four of the length (RFC 1952)
    path.write_bytes(data)


def cut_tar_bz2(path: Path) -> None:
    path.write_bytes(cut(write_tar(path, {"A/1.jpg": os.urandom(20_000)}, "bz2").read_bytes(), 0.5))


def cut_tar_xz(path: Path) -> None:
    path.write_bytes(cut(write_tar(path, {"A/1.jpg": os.urandom(20_000)}, "xz").read_bytes(), 0.5))


def zip_with_a_broken_name(path: Path) -> None:
    data = write_zip(path, {"é.jpg": b"x"}).read_bytes()
    path.write_bytes(data.replace("é".encode(), b"\xff\xff"))


def gzip_of_no_tar(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a,b,c\n" * 300))


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (missing, "there is no such file or folder. Check the path."),
            (empty, "the file is empty. Expected a zip file, a tar file or a folder of pictures."),
            (not_an_archive, "neither a zip file nor a tar file nor a folder. Pack the class folders"),
            (cut_zip, "not a whole zip file (File is not a zip file). Probably cut while downloading: fetch it again."),
            (zip_with_a_broken_name, "not a whole zip file ('utf-8' codec"),
            (cut_tar_in_a_picture, "not a whole tar file (unexpected end of data). Probably cut while downloading"),
            (cut_tar_in_a_header, "not a whole tar file (no header and no end of the archive at byte 1,024)"),
            (cut_tar_between_two_pictures, "not a whole tar file (no header and no end of the archive at byte 1,024)"),
            (tar_with_a_damaged_header, "not a whole tar file (no header and no end of the archive at byte 1,024)"),
            (cut_tar_gz, "not a whole tar file (Compressed file ended before"),
            (cut_tar_gz_at_once, "not a whole tar file ("),
            (damaged_tar_gz, "not a whole tar file (CRC check failed"),
            (cut_tar_bz2, "not a whole tar file ("),
            (cut_tar_xz, "not a whole tar file ("),
            (gzip_of_no_tar, "not a whole tar file ("),
        ],
    )
    def test_message_says_what_where_and_what_to_do(
        self, tmp_path: Path, make: Callable[[Path], None], message: str
    ) -> None:
        path = tmp_path / "archive.bin"
        make(path)
        with pytest.raises(ArchiveError) as caught:
            open_archive(path)
        assert str(caught.value).startswith(f"{path}: {message}")

    def test_a_file_that_may_not_be_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", refuse)
        with pytest.raises(ArchiveError, match=r"a\.zip: cannot be opened \(Permission denied\)\. Check its perm"):
            open_archive(path)

    def test_a_folder_that_may_not_be_listed_is_not_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_folder(tmp_path / "set", FILES)
        scandir = os.scandir

        def refuse(path: str) -> object:
            if path.endswith("/B"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr("os.scandir", refuse)
        with pytest.raises(ArchiveError, match=r"set/B: the folder cannot be listed \(Permission denied\)"):
            open_archive(folder)


def flag_encrypted(path: Path, name: str) -> None:
    """Set the flag of an encrypted entry in its local and its central header."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(name).header_offset
        central = data.index(b"PK\x01\x02", archive.start_dir)
    while data[central + 46 : central + 46 + len(name)] != name.encode():
        central = data.index(b"PK\x01\x02", central + 1)
    data[local + 6] |= 1
    data[central + 8] |= 1
    path.write_bytes(data)


def flip(path: Path, content: bytes) -> None:
    """Damage one byte in the middle of a member's content."""
    data = bytearray(path.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 0xFF
    path.write_bytes(data)


def read_error(archive: Archive, name: str) -> str:
    with pytest.raises(UnreadableError) as caught:
        archive.read(name)
    return str(caught.value)


class TestOneBadMember:
    """One member cannot be read; it says why, and the others are fine."""

    def test_encrypted(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)
        flag_encrypted(path, "set/A/A2.png")
        assert problems(path)["set/A/A2.png"] == "encrypted"
        with open_archive(path) as archive:
            assert read_error(archive, "set/A/A2.png") == "encrypted"
            assert archive.read("set/A/A1.jpg") == FILES["set/A/A1.jpg"]

    def test_damaged_zip_entry(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)
        flip(path, FILES["set/A/A1.jpg"])
        with open_archive(path) as archive:
            assert read_error(archive, "set/A/A1.jpg") == "damaged in the archive (Bad CRC-32 for file 'set/A/A1.jpg')"
            assert archive.read("set/A/A2.png") == FILES["set/A/A2.png"]

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_damaged_compressed_entry(self, tmp_path: Path, method: int) -> None:
        path = write_zip(tmp_path / "a.zip", {"A/1.jpg": b"0123456789" * 1000, "A/2.jpg": b"good"}, method)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("A/1.jpg")
        data = bytearray(path.read_bytes())
        start = info.header_offset + 30 + len(info.filename)
        data[start + 4 : start + info.compress_size] = b"\xff" * (info.compress_size - 4)
        path.write_bytes(data)
        with open_archive(path) as opened:
            assert read_error(opened, "A/1.jpg").startswith("damaged in the archive (")
            assert opened.read("A/2.jpg") == b"good"

    def test_damaged_local_header(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)
        path.write_bytes(
            path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05", 2).replace(b"PK\x03\x05", b"PK\x03\x04", 1)
        )
        with open_archive(path) as archive:
            assert read_error(archive, "set/A/A2.png").startswith("damaged in the archive (Bad magic number")
            assert archive.read("set/A/A1.jpg") == FILES["set/A/A1.jpg"]

    def test_unknown_compression(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A/1.jpg": b"x"})
        data = bytearray(path.read_bytes())
        struct.pack_into("<H", data, 8, 99)
        struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, 99)
        path.write_bytes(data)
        with open_archive(path) as archive:
            assert read_error(archive, "A/1.jpg").startswith("cannot be unpacked (That compression method")

    @pytest.mark.parametrize(
        "name", ["../A/1.jpg", "A/../../1.jpg", "/A/1.jpg", "C:\\A\\1.jpg", "c:/A/1.jpg", "..\\A\\1.jpg", "A/.."]
    )
    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_name_that_points_outside(self, tmp_path: Path, kind: str, name: str) -> None:
        folder = tmp_path / "deep" / "inside"
        folder.mkdir(parents=True)
        path = KINDS[kind](folder / "a", {name: b"x", "B/1.jpg": b"good"})
        before = listing(tmp_path)
        listed = problems(path)
        assert listed.pop("B/1.jpg") == ""
        assert set(listed.values()) == {"name points outside the archive"}
        with open_archive(path) as archive:
            assert read_error(archive, next(iter(listed))) == "name points outside the archive"
        assert listing(tmp_path) == before

    @pytest.mark.parametrize("name", ["A/..jpg", "A/a..b/1.jpg", "A/C:1.jpg"])
    def test_dots_and_colons_elsewhere_are_fine(self, tmp_path: Path, name: str) -> None:
        assert problems(write_zip(tmp_path / "a.zip", {name: b"x"})) == {name: ""}

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_link_or_device(self, tmp_path: Path, kind: bytes) -> None:
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            special = tarfile.TarInfo("A/1.jpg")
            special.type, special.linkname = kind, "/etc/passwd"
            tar.addfile(special)
            good = tarfile.TarInfo("A/2.jpg")
            good.size = 4
            tar.addfile(good, io.BytesIO(b"good"))
        with open_archive(path) as archive:
            assert read_error(archive, "A/1.jpg") == "a link or device, not a regular file"
            assert archive.read("A/2.jpg") == b"good"


class TestBombs:
    ZEROS = MAX_MEMBER_BYTES + 2**20

    def bomb(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("A/1.jpg", "w") as entry:
                for _ in range(self.ZEROS // 2**20):
                    entry.write(bytes(2**20))
            archive.writestr("A/2.jpg", b"good")
        return path

    def test_listed_and_never_unpacked(self, tmp_path: Path) -> None:
        path = self.bomb(tmp_path / "bomb.zip")
        tracemalloc.start()
        with open_archive(path) as archive:
            reason = read_error(archive, "A/1.jpg")
            assert archive.read("A/2.jpg") == b"good"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason == "too large (65 MiB unpacked, at most 64 MiB are read)"
        assert peak < 4 * 2**20

    def test_one_that_lies_about_its_size_is_damaged(self, tmp_path: Path) -> None:
        path = self.bomb(tmp_path / "bomb.zip")
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", self.ZEROS), struct.pack("<I", 1000)))
        with open_archive(path) as archive:
            reason = read_error(archive, "A/1.jpg")
        assert reason == "damaged in the archive (Bad CRC-32 for file 'A/1.jpg')"

    def test_in_a_tar(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.tar.bz2"
        header = tarfile.TarInfo("A/1.jpg")
        header.size = self.ZEROS
        packer = bz2.BZ2Compressor(1)
        parts = [packer.compress(header.tobuf()), *(packer.compress(bytes(2**20)) for _ in range(self.ZEROS // 2**20))]
        path.write_bytes(b"".join([*parts, packer.compress(bytes(1024)), packer.flush()]))
        assert problems(path) == {"A/1.jpg": "too large (65 MiB unpacked, at most 64 MiB are read)"}

    def test_in_a_folder(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"A/1.jpg": b""})
        os.truncate(folder / "A" / "1.jpg", self.ZEROS)
        assert problems(folder) == {"A/1.jpg": "too large (65 MiB unpacked, at most 64 MiB are read)"}

    def test_a_file_that_grows_after_it_was_listed(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"A/1.jpg": b""})
        with open_archive(folder) as archive:
            os.truncate(folder / "A" / "1.jpg", self.ZEROS)
            assert read_error(archive, "A/1.jpg") == "too large (64 MiB unpacked, at most 64 MiB are read)"


def test_bad_members_are_rows_of_the_data_set_and_the_rest_is_read(tmp_path: Path) -> None:
    files = {**alphabet(4), "../A/1.png": png(), "A/locked.png": png("black"), "A/bad.png": png("white", (30, 30))}
    path = write_zip(tmp_path / "a.zip", files)
    flag_encrypted(path, "A/locked.png")
    flip(path, files["A/bad.png"])
    with open_archive(path) as archive:
        dataset = scan(archive)
    assert {p.id: p.problem for p in dataset.pictures if p.problem} == {
        "../A/1.png": "name points outside the archive",
        "A/locked.png": "encrypted",
        "A/bad.png": "damaged in the archive (Bad CRC-32 for file 'A/bad.png')",
    }
    assert [p.id for p in dataset.letters()] == list(alphabet(4))


def test_a_zip_end_that_speaks_of_several_disks(tmp_path: Path) -> None:
    """Found by fuzzing: asking such a file whether it is a zip raises."""
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)  # zip64: the second number of disks is not 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "a.bin"
    path.write_bytes(b"something else" + bytes(60) + locator + end)
    with pytest.raises(ArchiveError, match="span multiple disks"):
        open_archive(path)


class TestSeveral:
    def test_names_have_the_archives_name_before_them(self, tmp_path: Path) -> None:
        paths = [write_folder(tmp_path / "v1.2", FILES), write_tar(tmp_path / "one.tar.gz", FILES, "gz")]
        with open_archives(paths) as joined:
            assert contents(joined) == {f"{stem}/{name}": FILES[name] for stem in ("one", "v1.2") for name in FILES}
            assert list(joined.parts) == ["one", "v1.2"]
            assert joined.path.name == "one.tar.gz + v1.2"

    def test_one_is_opened_as_it_is(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", FILES)
        with open_archive(path) as alone, open_archives(path) as one, open_archives([str(path)]) as listed:
            assert alone.members == one.members == listed.members
            assert alone.fingerprint == one.fingerprint == listed.fingerprint
            assert not one.parts

    def test_the_order_decides_nothing_and_a_change_of_one_shows(self, tmp_path: Path) -> None:
        paths = [write_zip(tmp_path / "b.zip", FILES), write_zip(tmp_path / "a.zip", FILES)]
        with open_archives(paths) as one, open_archives(paths[::-1]) as other:
            assert (one.members, one.fingerprint) == (other.members, other.fingerprint)
            before = one.fingerprint
        write_zip(paths[1], FILES | {"set/A/A3.jpg": jpeg("green")})
        with open_archives(paths) as changed:
            assert changed.fingerprint != before

    def test_bad_members_are_told_of(self, tmp_path: Path) -> None:
        bad = write_zip(tmp_path / "bad.zip", {"../A/1.png": png()})
        with open_archives([bad, write_zip(tmp_path / "good.zip", FILES)]) as joined:
            with pytest.raises(UnreadableError, match="name points outside the archive"):
                joined.read("bad/../A/1.png")

    def test_closing_closes_all(self, tmp_path: Path) -> None:
        with open_archives([write_zip(tmp_path / f"{x}.zip", FILES) for x in "ab"]) as joined:
            pass
        for name in ("a/set/list.csv", "b/set/list.csv"):
            with pytest.raises(UnreadableError):
                joined.read(name)

    def test_what_cannot_be_joined_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArchiveError, match="no archive given: found none, expected at least one"):
            open_archives([])
        path = write_zip(tmp_path / "a.zip", FILES)
        with pytest.raises(ArchiveError, match="found 2 archives of the name 'a'; expected a name of its own"):
            open_archives([path, write_folder(tmp_path / "other" / "a", FILES)])
        with pytest.raises(ArchiveError, match="there is no such file"):
            open_archives([path, tmp_path / "nowhere.zip"])

    @pytest.mark.parametrize(
        ("name", "stem"), [("a.zip", "a"), ("a.b.zip", "a.b"), ("a.tar.xz", "a"), ("a.tgz", "a"), ("a", "a")]
    )
    def test_stems(self, tmp_path: Path, name: str, stem: str) -> None:
        assert stem_of(tmp_path / name) == stem

    def test_each_is_read_by_its_own_layout_and_remembered_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = {f"{x}/{n}.png": png((n, 0, 0)) for x in "ab" for n in range(2)}
        large = {f"Train_Alphabet/{x}/{n}.png": png((0, n, 0)) for x in "AB" for n in range(2)}
        paths = [write_zip(tmp_path / "small.zip", small), write_zip(tmp_path / "large.zip", large)]
        for path in paths:
            with open_archive(path) as archive:
                scan(archive, memory=tmp_path / "memory")
        monkeypatch.setattr(Archive, "read", lambda _, member: pytest.fail(f"{member} was read"))
        with open_archives(paths) as joined:
            dataset = scan(joined, memory=tmp_path / "memory")
        assert [p.id for p in dataset.pictures][:2] == ["large/Train_Alphabet/A/0.png", "large/Train_Alphabet/A/1.png"]
        assert [p.label for p in dataset.pictures] == [*"AABB", *"AABB"]
        assert {p.part for p in dataset.pictures if p.id.startswith("large")} == {"train"}
        with open_archive(paths[0]) as archive:
            assert dataset.part("small").digest == scan(archive, memory=tmp_path / "memory").digest
