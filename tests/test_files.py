"""Atomic writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fingerspell.files import write_bytes, write_text

if TYPE_CHECKING:
    from pathlib import Path


def test_bytes_are_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"\x00\xff\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff\n"


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größer\r\n→\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\r\n→\n".encode()


def test_parent_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old and longer")
    write_text(tmp_path / "a.txt", "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "new"}


@pytest.mark.parametrize("step", ["os.fdopen", "os.chmod", "os.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail(handle: object, *_: object) -> None:
        if isinstance(handle, int):
            os.close(handle)
        raise error

    monkeypatch.setattr(step, fail)
    with pytest.raises(type(error)):
        write_text(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_failed_first_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    replace, seen = os.replace, []

    def look(source: str, target: Path) -> None:
        seen.append(path.read_text())
        replace(source, target)

    monkeypatch.setattr("os.replace", look)
    write_text(path, "new")
    assert (seen, path.read_text()) == (["old"], "new")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask  # and the umask is left alone
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
