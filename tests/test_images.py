"""From the bytes of any picture file to upright 8-bit RGB, or to the reason why not."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from fingerspell.errors import UnreadableError
from fingerspell.images import (
    CONDITIONS,
    MAX_PIXELS,
    SUFFIXES,
    Interpolation,
    View,
    decode,
    examine,
    fitted,
    padded_square,
    resize,
    view_of,
)
from pictures import encode, jpeg, png, png_claiming

if TYPE_CHECKING:
    from fingerspell.images import Pixels

RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 255]


def half_red_half_blue(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue: shows how it is turned."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image


def noise(mode: str = "RGB", size: int = 64) -> Image.Image:
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def error_of(data: bytes) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(data)
    return str(caught.value)


class TestFormats:
    @pytest.mark.parametrize(
        ("form", "name"),
        [
            ("JPEG", "JPEG"),
            ("PNG", "PNG"),
            ("BMP", "BMP"),
            ("GIF", "GIF"),
            ("WEBP", "WEBP"),
            ("TIFF", "TIFF"),
            ("PPM", "PPM"),
        ],
    )
    def test_every_format_is_read_as_rgb(self, form: str, name: str) -> None:
        decoded = decode(encode(half_red_half_blue(), form))
        assert decoded.format == name
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape == (20, 40, 3)
        np.testing.assert_allclose(decoded.pixels[10, 4], RED, atol=4)
        np.testing.assert_allclose(decoded.pixels[10, 36], BLUE, atol=4)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_every_mode_of_png_is_read_as_rgb(self, mode: str) -> None:
        assert (
            decode(encode(Image.new("RGB", (4, 4), "white").convert(mode), "PNG")).pixels.tolist() == [[WHITE] * 4] * 4
        )

    def test_the_first_picture_of_a_multi_picture_jpeg_counts(self) -> None:
        data = encode(
            Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]
        )
        np.testing.assert_allclose(decode(data).pixels[0, 0], RED, atol=4)

    def test_the_first_frame_of_an_animation_counts(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
        decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        assert decoded.format == "GIF"
        assert decoded.pixels.tolist() == [[RED] * 8] * 8

    def test_the_suffixes_are_lower_case_with_a_dot(self) -> None:
        assert {".jpg", ".jpeg", ".png"} <= SUFFIXES
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


class TestColours:
    def test_cmyk_jpeg(self) -> None:
        decoded = decode(encode(Image.new("RGB", (8, 8), "red").convert("CMYK"), "JPEG"))
        np.testing.assert_allclose(decoded.pixels[0, 0], RED, atol=6)

    @pytest.mark.parametrize(
        ("deep", "shallow"), [(0, 0), (255, 0), (256, 1), (32768, 128), (40000, 156), (65535, 255)]
    )
    @pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bit_gray_is_scaled_and_not_clipped(self, form: str, deep: int, shallow: int) -> None:
        image = Image.fromarray(np.full((4, 4), deep, np.uint16))
        assert decode(encode(image, form)).pixels.tolist() == [[[shallow] * 3] * 4] * 4

    def test_transparent_pixels_lie_on_white(self) -> None:
        assert decode(png((255, 0, 0, 0), mode="RGBA")).pixels[0, 0].tolist() == WHITE

    def test_half_transparent_pixels_mix_with_white(self) -> None:
        np.testing.assert_allclose(decode(png((255, 0, 0, 128), mode="RGBA")).pixels[0, 0], [255, 127, 127], atol=1)

    def test_opaque_pixels_keep_their_colour(self) -> None:
        assert decode(png((0, 128, 0, 255), mode="RGBA")).pixels[0, 0].tolist() == GREEN

    @pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
    def test_palette_with_transparency(self, transparency: int | bytes) -> None:
        image = Image.new("P", (4, 2))
        image.putpalette([0, 0, 0, 0, 0, 255])
        image.putdata([0, 0, 1, 1] * 2)
        pixels = decode(encode(image, "PNG", transparency=transparency)).pixels
        assert pixels[0].tolist() == [WHITE, WHITE, BLUE, BLUE]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_a_turned_photo_comes_out_upright(self, form: str, orientation: int) -> None:
        image = Image.new("RGB", (64, 32), "white")
        image.paste("red", (0, 0, 32, 16))
        image.paste("blue", (32, 0, 64, 16))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options: dict[str, Any] = {"exif": exif, "lossless": True} if form == "WEBP" else {"exif": exif}
        decoded = decode(encode(image, form, **options))
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(image, "PNG", exif=exif))))
        assert decoded.format == form
        assert decoded.pixels.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
        np.testing.assert_allclose(decoded.pixels[8::16, 8::16], np.asarray(expected)[8::16, 8::16], atol=6)

    def test_orientation_6_is_the_upright_phone(self) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        pixels = decode(encode(half_red_half_blue(), "PNG", exif=exif)).pixels
        assert (pixels[4, 10].tolist(), pixels[36, 10].tolist()) == (RED, BLUE)

    def test_damaged_exif_does_not_spoil_a_good_picture(self) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif[ExifTags.Base.ResolutionUnit] = 2
        data = exif.tobytes().replace(
            struct.pack(">HH", ExifTags.Base.ResolutionUnit, 3),
            struct.pack(">HH", ExifTags.Base.ResolutionUnit, 2),  # says that the number is a text
        )
        with pytest.raises(struct.error):  # Pillow's own way to turn a picture
            ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg(exif=data))))
        pixels = decode(jpeg(np.asarray(half_red_half_blue()), exif=data)).pixels
        np.testing.assert_allclose(pixels[4, 10], RED, atol=6)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    @pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
    def test_without_readable_exif_a_picture_is_taken_as_it_is(self, form: str, exif: bytes) -> None:
        pixels = decode(encode(half_red_half_blue(), form, exif=exif)).pixels
        np.testing.assert_allclose(pixels[10, 4], RED, atol=6)


def truncated(form: str, share: float = 0.5) -> bytes:
    data = encode(noise(), form)
    return data[: int(len(data) * share)]


def png_with_a_damaged_chunk() -> bytes:
    data = bytearray(encode(noise(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


class TestUnreadable:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file (0 bytes)"),
            (b"this is no picture\n" * 50, "not a picture in a known format"),
            (b"<html>404 not found</html>", "not a picture in a known format"),
            (b"\x00" * 1000, "not a picture in a known format"),
            (jpeg()[:2], "not a picture in a known format"),
            (truncated("JPEG"), "damaged picture (image file is truncated"),
            (truncated("PNG"), "damaged picture ("),
            (truncated("PNG", 0.98), "damaged picture ("),
            (truncated("BMP"), "damaged picture (image file is truncated"),
            (truncated("GIF"), "damaged picture (image file is truncated"),
            (truncated("TIFF"), "damaged picture (image file is truncated"),
            (truncated("WEBP"), "damaged picture ("),
            (png_with_a_damaged_chunk(), "damaged picture ("),
            (
                encode(Image.new("F", (4, 4), 0.5), "TIFF"),
                "floating-point pixels have no agreed range; save it with 8 bits",
            ),
            (encode(half_red_half_blue(), "ICO"), "not a picture in a known format"),
            *(
                (b"\x00\x00\x00\x18ftyp" + brand, "a HEIC or AVIF picture")
                for brand in (b"heic", b"heix", b"hevc", b"mif1")
            ),
        ],
        ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else value,
    )
    def test_the_reason_is_told(self, data: bytes, reason: str) -> None:
        assert error_of(data).startswith(reason)

    @pytest.mark.parametrize("seed", range(40))
    def test_damaged_bytes_raise_nothing_but_unreadable(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for form in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP"):
            data = bytearray(encode(noise(size=16), form))
            for place in rng.integers(0, len(data), 6):
                data[place] = rng.integers(0, 256)
            try:
                decoded = decode(bytes(data))
            except UnreadableError as error:
                assert str(error)  # noqa: PT017 - either outcome is right
            else:
                assert decoded.pixels.ndim == 3


def outcome_of_decode(data: bytes) -> tuple[int, int, str] | str:
    try:
        decoded = decode(data)
    except UnreadableError as error:
        return str(error)
    height, width = decoded.pixels.shape[:2]
    return width, height, decoded.format


def outcome_of_examine(data: bytes) -> tuple[int, int, str] | str:
    try:
        found = examine(data)
    except UnreadableError as error:
        return str(error)
    return found.width, found.height, found.format


class TestExamine:
    """It finds what ``decode`` would find, to the letter."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_the_upright_size(self, form: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        data = encode(half_red_half_blue(), form, exif=exif)
        assert (
            outcome_of_examine(data)
            == outcome_of_decode(data)
            == ((40, 20, form) if orientation < 5 else (20, 40, form))
        )

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 95}], ids=str)
    @pytest.mark.parametrize("damage", ["none", "cut", "changed", "torn out"])
    def test_jpegs_whole_and_damaged(self, mode: str, options: dict[str, Any], damage: str) -> None:
        rng = np.random.default_rng(0)
        whole = encode(noise(size=53).convert(mode), "JPEG", **options)
        for _ in range(10):
            place = int(rng.integers(2, len(whole)))
            data = {
                "none": whole,
                "cut": whole[:place],
                "changed": whole[:place] + bytes(rng.integers(0, 256, 4).tolist()) + whole[place + 4 :],
                "torn out": whole[:place] + whole[place + 20 :],
            }[damage]
            assert outcome_of_examine(data) == outcome_of_decode(data)
            if damage == "cut":
                assert isinstance(outcome_of_examine(data), str)

    @pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "MPO"])
    def test_every_other_format_whole_and_cut(self, form: str) -> None:
        whole = encode(noise(), form)
        for data in (whole, whole[: len(whole) // 2]):
            assert outcome_of_examine(data) == outcome_of_decode(data)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"text",
            png_claiming(30_000, 30_000),
            png_claiming(8_001, 8_000),
            encode(Image.new("F", (4, 4)), "TIFF"),
        ],
        ids=["empty", "text", "bomb", "large", "float"],
    )
    def test_what_is_no_picture_for_us(self, data: bytes) -> None:
        assert outcome_of_examine(data) == outcome_of_decode(data)
        assert isinstance(outcome_of_examine(data), str)


class TestPixelBombs:
    @pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (8_001, 8_000), (64_000_001, 1)])
    def test_too_many_pixels_are_refused_before_they_are_unpacked(self, size: tuple[int, int]) -> None:
        reason = error_of(png_claiming(*size))
        assert reason.startswith("too many pixels (")
        assert reason.endswith("at most 64,000,000 are read)")

    def test_the_size_is_told(self) -> None:
        assert "8001x8000 = 64,008,000" in error_of(png_claiming(8_001, 8_000))

    def test_the_limit_itself_is_no_bomb(self) -> None:
        assert MAX_PIXELS == 8_000 * 8_000
        assert "too many pixels" not in error_of(png_claiming(8_000, 8_000))


class TestResize:
    def test_the_whole_picture_is_squeezed(self) -> None:
        pixels = resize(np.asarray(half_red_half_blue((40, 20))), 10, "nearest")
        assert pixels.shape == (10, 10, 3)
        assert pixels[0].tolist() == [RED] * 5 + [BLUE] * 5

    @pytest.mark.parametrize("interpolation", get_args(Interpolation))
    def test_every_interpolation_gives_the_size(self, interpolation: str) -> None:
        assert resize(np.asarray(noise()), 90, interpolation).shape == (90, 90, 3)  # type: ignore[arg-type]

    def test_a_picture_of_that_size_stays_as_it_is(self) -> None:
        pixels = np.asarray(noise(size=16))
        assert resize(pixels, 16, "bicubic") is pixels

    def test_nearest_invents_no_colours_and_the_others_do(self) -> None:
        pixels = np.asarray(half_red_half_blue((9, 9)))
        assert {tuple(p) for p in resize(pixels, 20, "nearest").reshape(-1, 3).tolist()} == {tuple(RED), tuple(BLUE)}
        assert len({tuple(p) for p in resize(pixels, 20, "bilinear").reshape(-1, 3).tolist()}) > 2


class TestView:
    def test_original(self) -> None:
        pixels = np.asarray(noise())
        assert view_of(pixels, "original") is pixels

    def test_mirrored_swaps_left_and_right_alone(self) -> None:
        pixels = np.asarray(half_red_half_blue((4, 2)))
        assert view_of(pixels, "mirrored").tolist() == [[BLUE, BLUE, RED, RED]] * 2

    @pytest.mark.parametrize(("view", "grey"), [("darker", 100), ("brighter", 255), ("coarse", 200), ("blurred", 200)])
    def test_other_conditions_of_an_even_picture(self, view: View, grey: int) -> None:
        seen = view_of(np.full((9, 9, 3), 200, np.uint8), view)
        assert seen.shape == (9, 9, 3)
        assert seen.dtype == np.uint8
        assert set(seen.flat) == {grey}

    @pytest.mark.parametrize("view", ["coarse", "blurred"])
    def test_detail_is_lost(self, view: View) -> None:
        pixels = np.asarray(noise(size=90))
        assert view_of(pixels, view).std() < 0.8 * pixels.std()

    @pytest.mark.parametrize("view", CONDITIONS)
    def test_the_smallest_picture_has_every_view(self, view: View) -> None:
        assert view_of(np.full((1, 1, 3), 7, np.uint8), view).shape == (1, 1, 3)


def test_32_bit_pixels_are_refused_and_16_bit_greymaps_read() -> None:
    wide = Image.fromarray(np.full((4, 4), 200, np.int32))
    with pytest.raises(UnreadableError, match="32-bit pixels have no agreed range"):
        decode(encode(wide, "TIFF"))
    greymap = b"P5 2 1 65535\n" + bytes([200, 0, 100, 0])
    assert decode(greymap).pixels[0].tolist() == [[200] * 3, [100] * 3]


@pytest.mark.parametrize(("height", "width"), [(2, 5), (5, 2), (3, 3)])
def test_padded_square_repeats_the_edges_around_the_picture(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = padded_square(pixels)
    side = max(height, width)
    assert square.shape == (side, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    assert (square[top : top + height, left : left + width] == pixels).all()
    assert (square[0, 0] == pixels[0, 0]).all()
    assert (square[-1, -1] == pixels[-1, -1]).all()


@pytest.mark.parametrize(
    ("size", "drawn"), [((1280, 720), (320, 180)), ((300, 600), (150, 300)), ((200, 100), (200, 100))]
)
def test_a_jpeg_is_drawn_no_larger_than_is_needed(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(size)
    pixels = decode(encode(smooth, "JPEG"), side=256).pixels
    assert pixels.shape[1::-1] == drawn
    assert np.abs(pixels.astype(float) - np.asarray(smooth.resize(drawn))).mean() < 4
    assert decode(encode(smooth, "PNG"), side=256).pixels.shape[1::-1] == size


def resized(pixels: Pixels, sides: tuple[int, ...]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((sides[0], sides[1]), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(500, 300), (90, 300), (3, 700), (40, 40), (64, 64)])
def test_fitted_pictures_keep_their_proportions(size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 250, np.uint8)
    pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = 10, 20, 30, 40
    found = fitted(pixels, 64, "bilinear")
    assert found.shape == (64, 64, 3)
    expected = padded_square(resized(pixels, tuple(max(1, round(side * 64 / max(size))) for side in size)))
    assert (found == expected).all()
    if size[0] == size[1]:
        assert (found == resize(pixels, 64, "bilinear")).all()
