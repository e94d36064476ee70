"""The search for the hand: the ladder of tries, the row it gives, the crop; MediaPipe itself where its model is."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from http.client import IncompleteRead
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fingerspell import cache, console, hands, images
from fingerspell.archive import open_archive
from fingerspell.errors import BackboneError, MissingDependencyError
from pictures import write_zip

Answer = Callable[[np.ndarray], Any]

BLIND = SimpleNamespace(hand_landmarks=[])


def marked(width: int = 60, height: int = 40) -> np.ndarray:
    """Grey picture with a white patch around (0.7, 0.25) of its sides."""
    pixels = np.full((height, width, 3), 100, np.uint8)
    x, y, half = round(0.7 * width), round(0.25 * height), max(1, width // 20)
    pixels[y - half : y + half, x - half : x + half] = 255
    return pixels


def at_the_patch(pixels: np.ndarray) -> SimpleNamespace:
    """What MediaPipe would say of a hand whose points all lie on the white patch, a right one for sure."""
    rows, columns = np.nonzero(pixels[..., 0] > 200)
    height, width = pixels.shape[:2]
    x, y = (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height
    points = [SimpleNamespace(x=x, y=y, z=0.1)] * hands.POINTS
    world = [SimpleNamespace(x=0.05, y=0.02, z=0.01)] * hands.POINTS
    side = SimpleNamespace(category_name="Right", score=0.9)
    return SimpleNamespace(hand_landmarks=[points], hand_world_landmarks=[world], handedness=[[side]])


@pytest.fixture
def detector(tmp_path: Path) -> hands.Detector:
    file = tmp_path / "hand.task"
    file.write_bytes(b"model")
    return hands.Detector(file)


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50)])
def test_points_come_back_to_the_picture_from_every_step(
    detector: hands.Detector, monkeypatch: pytest.MonkeyPatch, step: int, size: tuple[int, int]
) -> None:
    asked: list[tuple[tuple[int, ...], float]] = []

    def detect(pixels: np.ndarray, confidence: float) -> SimpleNamespace:
        asked.append((pixels.shape, confidence))
        return at_the_patch(pixels) if len(asked) == step + 1 else BLIND

    monkeypatch.setattr(detector, "_detect", detect)
    row = detector.look(marked(*size))
    points = row[hands.PICTURE].reshape(hands.POINTS, 3)
    np.testing.assert_allclose(points[:, :2], np.tile([0.7, 0.25], (hands.POINTS, 1)), atol=0.02)
    margin = 1.6 if step in {2, 3} else 1.0  # a margin makes the picture, and so MediaPipe's unit, larger
    np.testing.assert_allclose(points[:, 2], 0.1 * max(size) / size[0] * margin, rtol=0.02)
    assert row[hands.STEP] == step
    assert row[hands.SHAPE] == pytest.approx(size[0] / size[1])
    assert row[[hands.FOUND, hands.SURE]].tolist() == pytest.approx([1, 0.9])
    assert row[hands.RIGHT] == pytest.approx(0.9)
    assert row[hands.WORLD][0] == pytest.approx(0.05)
    side = max(size)
    sides = [side, 256, 320, 320, 256]
    ladder = [((s, s, 3), c) for s, c in zip(sides, [0.5] * 3 + [0.1] * 2, strict=True)]
    assert asked == [*ladder[: step + 1], *[((320, 320, 3), 0.1)] * 3]  # and at the stretched pictures


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50), (1600, 1200)])
def test_looks_at_stretched_pictures_tell_of_the_same_place(
    detector: hands.Detector, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(detector, "_detect", lambda pixels, _: at_the_patch(pixels))
    looks = detector.look(marked(*size)).reshape(hands.LOOKS, hands.LOOK)
    shapes = size[0] / size[1] * np.array(hands.STRETCHES)
    np.testing.assert_allclose(looks[:, hands.SHAPE], shapes, rtol=0.02)
    assert looks[:, hands.FOUND].all()
    for look in looks:
        points = look[hands.PICTURE].reshape(hands.POINTS, 3)
        np.testing.assert_allclose(points[:, :2], np.tile([0.7, 0.25], (hands.POINTS, 1)), atol=0.02)


def test_hand_that_is_seen_in_a_stretched_picture_alone_is_told_as_that_of_the_picture(
    detector: hands.Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def detect(pixels: np.ndarray, _: float) -> SimpleNamespace:
        asked.append(pixels)
        return at_the_patch(pixels) if len(asked) == 7 else BLIND

    monkeypatch.setattr(detector, "_detect", detect)
    first, wider, taller, tallest = detector.look(marked()).reshape(hands.LOOKS, hands.LOOK)
    assert [look[hands.FOUND] for look in (first, wider, taller, tallest)] == [1, 0, 1, 0]
    assert [first[hands.SHAPE], taller[hands.SHAPE]] == pytest.approx([1.5, 1.0])
    np.testing.assert_array_equal(np.delete(first, hands.SHAPE), np.delete(taller, hands.SHAPE))
    assert first[hands.STEP] >= hands.DOUBTFUL


def test_an_unlikely_shape_is_not_looked_at_where_the_others_miss_the_hand(
    detector: hands.Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def look(answer: Answer) -> int:
        """How often MediaPipe is asked."""
        asked.clear()

        def detect(pixels: np.ndarray, _: float) -> Any:
            asked.append(pixels.shape)
            return answer(pixels)

        monkeypatch.setattr(detector, "_detect", detect)
        detector.look(marked())
        return len(asked)

    assert look(lambda _: BLIND) == 5 + 2
    assert look(at_the_patch) == 1 + 3


def test_missed_hand_is_a_row_too(detector: hands.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_detect", lambda *_: BLIND)
    row = detector.look(marked())
    assert row.shape == (hands.ROW,)
    assert row.dtype == np.float32
    assert row[hands.SHAPE] == 1.5
    assert np.count_nonzero(row) == hands.LOOKS


def test_a_long_strip_is_looked_at_in_bounded_memory(detector: hands.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def detect(pixels: np.ndarray, _: float) -> SimpleNamespace:
        asked.append(pixels.shape)
        return BLIND

    monkeypatch.setattr(hands, "_MOST", 200)
    monkeypatch.setattr(detector, "_detect", detect)
    monkeypatch.setattr(hands, "_MOST_OF_A_STRIP", 100)
    strip = np.full((2, 20_000, 3), 100, np.uint8)
    row = detector.look(strip)
    assert max(side for shape in asked for side in shape) <= 640
    asked.clear()
    detector.look(np.full((150, 300, 3), 100, np.uint8))
    assert asked[0] == (200, 200, 3)
    assert hands.network_input(strip, 16, "nearest", "original", row).shape == (16, 16, 3)


def test_what_cannot_be_read_is_named_while_mediapipe_is_kept_quiet(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python's own stream, as without pytest, which puts a file of its own there.
    monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", buffering=1, closefd=False))
    with ThreadPoolExecutor(1) as pool:
        with hands._quiet():
            told = pool.submit(console.warn, "cut.jpg: damaged picture")
            os.write(2, b"MediaPipe speaks of itself")
            wait([told], timeout=0.2)
        told.result()
    assert capfd.readouterr().err == "cut.jpg: damaged picture\n"


def row_at(points: np.ndarray, right: float = 1.0) -> hands.Row:
    row = np.zeros(hands.ROW, np.float32)
    row[[hands.FOUND, hands.RIGHT]] = 1, right
    row[hands.PICTURE] = np.column_stack([np.resize(points, (hands.POINTS, 2)), np.zeros(hands.POINTS)]).ravel()
    return row


def test_crop_is_a_square_around_the_hand() -> None:
    pixels = np.arange(100 * 200 * 3).reshape(100, 200, 3).astype(np.uint8)
    box = np.array([[0.3, 0.3], [0.5, 0.6]])  # 40 x 30 pixels around (80, 45)
    cut = hands.crop(pixels, row_at(box))
    np.testing.assert_array_equal(cut, pixels[15:75, 50:110])  # 40 pixels and a quarter on each side
    np.testing.assert_array_equal(hands.crop(pixels, row_at(box, right=0.2)), cut[:, ::-1])


def test_crop_beyond_the_picture_repeats_its_edge() -> None:
    pixels = np.arange(100, dtype=np.uint8)[:, None, None].repeat(100, 1).repeat(3, 2)
    cut = hands.crop(pixels, row_at(np.array([[0.0, 0.0], [0.4, 0.4]])))
    assert cut.shape == (60, 60, 3)
    assert (cut[:10] == 0).all()
    np.testing.assert_array_equal(cut[10:, 5, 0], np.arange(50))
    far = hands.crop(pixels, row_at(np.array([[1.5, 0.2], [1.7, 0.4]])))
    assert far.shape == (30, 30, 3)


def test_without_a_hand_the_whole_picture_is_seen() -> None:
    pixels, row = marked(), np.zeros(hands.ROW, np.float32)
    assert hands.crop(pixels, row) is pixels
    np.testing.assert_array_equal(hands.network_input(pixels, 16, "nearest", "original", row).shape, (16, 16, 3))


@pytest.mark.parametrize("cropped", [False, True])
def test_every_look_has_its_shape(cropped: bool) -> None:
    pixels = marked()  # half as wide again as high
    box = np.array([[0.3, 0.3], [0.5, 0.6]])
    found, missed = row_at(box)[: hands.LOOK], np.zeros(hands.LOOK, np.float32)
    row = np.concatenate([found, missed, found, missed])
    seen = hands.network_input(pixels, 48, "bilinear", "mirrored", row if cropped else None, padded=True, looks=4)
    assert seen.shape == (hands.LOOKS, 48, 48, 3)
    alone = hands.network_input(pixels, 48, "bilinear", "mirrored", row if cropped else None, padded=True)
    np.testing.assert_array_equal(seen[0], alone)
    tall = images.view_of(hands._stretched(pixels, hands.STRETCHES[2]), "mirrored")
    assert tall.shape[0] == tall.shape[1]
    expected = hands.crop(tall, row[2 * hands.LOOK :]) if cropped else tall
    np.testing.assert_array_equal(seen[2], images.fitted(expected, 48, "bilinear"))
    wide = images.view_of(hands._stretched(pixels, hands.STRETCHES[1]), "mirrored")
    np.testing.assert_array_equal(seen[1], images.fitted(wide, 48, "bilinear"))  # whole, for it missed the hand


def test_network_input_without_a_row_is_the_resized_picture() -> None:
    expected = images.view_of(images.resize(marked(), 16, "bilinear"), "mirrored")
    np.testing.assert_array_equal(hands.network_input(marked(), 16, "bilinear", "mirrored"), expected)


class TestModelFile:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hands, "version", lambda _: "1.2.3")

    def test_it_is_fetched_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = b"a model"
        asked: list[str] = []
        monkeypatch.setattr(hands, "MODEL_SHA256", hashlib.sha256(data).hexdigest())

        def download(url: str) -> bytes:
            asked.append(url)
            return data

        monkeypatch.setattr(hands, "_download", download)
        for _ in range(2):
            assert hands.open_detector().sha256 == hands.MODEL_SHA256
        assert asked == [hands.MODEL_URL]
        assert [(entry.kind, entry.size) for entry in cache.entries() if entry.kind == "models"] == [("models", 7)]
        cache.clear()
        assert not list(cache.models_folder().iterdir())

    def test_another_file_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hands, "_download", lambda _: b"a login page")
        with pytest.raises(BackboneError, match=r"found a file with sha256 \w{16}, expected fbc2a30080c3c557"):
            hands.open_detector()
        assert not cache.models_folder().exists()

    @pytest.mark.parametrize(
        ("error", "said"),
        [(OSError("name resolution failed"), "name resolution failed"), (IncompleteRead(b"a", 9), "IncompleteRead")],
    )
    def test_without_network_it_says_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
    ) -> None:
        def fail(_url: str) -> bytes:
            raise error

        monkeypatch.setattr(hands, "_download", fail)
        with pytest.raises(BackboneError, match=rf"cannot be fetched \({said}.*--hand-model FILE"):
            hands.open_detector()

    def test_a_damaged_bundle_is_left_to_mediapipe(self, tmp_path: Path) -> None:
        path = tmp_path / "hand.task"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("hand_detector.tflite", os.urandom(2000).hex())
        data = bytearray(path.read_bytes())
        data[200:400] = bytes(200)
        path.write_bytes(data)
        with zipfile.ZipFile(path) as bundle, pytest.raises((zlib.error, zipfile.BadZipFile)):
            bundle.read("hand_detector.tflite")
        assert hands.open_detector(path).sha256 == hashlib.sha256(data).hexdigest()

    def test_a_bundle_that_was_packed_again_is_the_same_model(self, tmp_path: Path) -> None:
        networks = {"hand_detector.tflite": b"finds", "hand_landmarks_detector.tflite": b"reads"}
        packed = [write_zip(tmp_path / "one.task", networks), tmp_path / "again.task"]
        with zipfile.ZipFile(packed[1], "w", zipfile.ZIP_DEFLATED) as bundle:
            for name in reversed(networks):
                bundle.writestr(name, networks[name])
        assert packed[0].read_bytes() != packed[1].read_bytes()
        first, again = (hands.open_detector(path).identity for path in packed)
        assert first == again
        other = write_zip(tmp_path / "other.task", networks | {"hand_detector.tflite": b"misses"})
        assert hands.open_detector(other).identity != first

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match=r"there is no such model file .* Check --hand-model"):
            hands.open_detector(tmp_path / "absent.task")


def test_without_mediapipe_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(hands, "version", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fingerspell\[hands\]'"):
        hands.open_detector()


@pytest.mark.shared
class TestMediaPipe:
    @pytest.fixture
    def real(self, shared: Path) -> hands.Detector:
        return hands.open_detector(shared / "weights" / "hand_landmarker.task")

    @pytest.fixture
    def pictures(self, shared: Path) -> list[images.Pixels]:
        with open_archive(shared / "data" / "signers_k.zip") as archive:
            names = sorted(m.name for m in archive.members if m.name.split("/")[0] in "LVY")[:360:60]
            return [images.decode(archive.read(name)).pixels for name in names]

    def test_real_hands(
        self, real: hands.Detector, pictures: list[images.Pixels], capfd: pytest.CaptureFixture[str]
    ) -> None:
        rows = np.stack([real.look(pixels) for pixels in pictures])
        assert rows[:, hands.FOUND].all()
        points = rows[:, hands.PICTURE].reshape(-1, hands.POINTS, 3)
        assert (points[..., :2] > -0.2).all()
        assert (points[..., :2] < 1.2).all()
        mirrored = np.stack([real.look(pixels[:, ::-1]) for pixels in pictures])
        assert (np.abs(rows[:, hands.RIGHT] + mirrored[:, hands.RIGHT] - 1) < 0.2).all()
        with ThreadPoolExecutor(2) as pool:
            np.testing.assert_array_equal(np.stack(list(pool.map(real.look, pictures))), rows)
        assert capfd.readouterr().err == ""

    def test_a_wide_picture_gives_the_points_of_its_square_part(
        self, real: hands.Detector, pictures: list[images.Pixels]
    ) -> None:
        square = pictures[0]
        side = len(square)
        wide = np.pad(square, ((0, 0), (side // 4, side // 4), (0, 0)), mode="edge")
        x, narrow_x = (real.look(p)[hands.PICTURE].reshape(-1, 3)[:, 0] for p in (wide, square))
        np.testing.assert_allclose(x * wide.shape[1] - side // 4, narrow_x * side, atol=0.05 * side)

    def test_damaged_model_file(self, tmp_path: Path) -> None:
        pytest.importorskip("mediapipe")
        (tmp_path / "bad.task").write_bytes(b"no model")
        with pytest.raises(BackboneError, match=r"not a model file that MediaPipe's hand landmarker reads"):
            hands.open_detector(tmp_path / "bad.task").look(marked())

    def test_a_zip_of_something_else(self, tmp_path: Path) -> None:
        pytest.importorskip("mediapipe")
        pictures = write_zip(tmp_path / "hands.zip", {f"A/{number}.jpg": b"picture" for number in range(999)})
        with pytest.raises(BackboneError, match=r"hands.zip: not a model file .* check --hand-model") as refused:
            hands.open_detector(pictures).look(marked())
        assert len(str(refused.value)) < 700
