"""Near-copies and bursts, on pictures that move like frames of a film and on hashes made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fingerspell.dataset import Picture
from fingerspell.images import examine
from fingerspell.neighbours import NEAR, bursts, has_near_copy, near_lag
from fingerspell.rendering import render_letter
from pictures import jpeg, png


def flipped(number: int, bits: int) -> int:
    """Hash that differs from another in its lowest bits."""
    return number ^ ((1 << bits) - 1)


def picture(name: str, value: int, label: str = "A", frame: int | None = None) -> Picture:
    return Picture(name, label, sha256=name, frame=frame, dhash=f"{value:016x}")


FAR = 0xFFFF_FFFF_0000_0000


def test_hash_of_a_frame_a_moment_later_is_near_and_another_hand_is_far() -> None:
    one, other = (render_letter(letter, np.random.default_rng(9), 120) for letter in "AW")
    moved = np.roll(one, 1, axis=1)
    hashes = [int(examine(png(pixels)).dhash, 16) for pixels in (one, moved, other)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= NEAR
    assert (hashes[0] ^ hashes[2]).bit_count() > 2 * NEAR


def test_hash_hardly_depends_on_size_and_format() -> None:
    pixels = render_letter("B", np.random.default_rng(1), 200)
    small = pixels[::2, ::2]
    hashes = [int(examine(data).dhash, 16) for data in (png(pixels), jpeg(pixels), jpeg(small))]
    assert max((hashes[0] ^ other).bit_count() for other in hashes[1:]) <= NEAR


def test_bursts_hang_together_by_near_copies() -> None:
    chain = [picture(f"a{n}", flipped(0, n * 4)) for n in range(4)]  # the ends are 12 bits apart
    alone = picture("alone", FAR)
    numbers = bursts([chain[2], alone, chain[0], chain[3], chain[1]])
    assert numbers.tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(("bits", "together"), [(NEAR, True), (NEAR + 1, False)])
def test_bursts_end_beyond_the_distance(bits: int, together: bool) -> None:
    numbers = bursts([picture("a", FAR), picture("b", flipped(FAR, bits))])
    assert (numbers[0] == numbers[1]) is np.bool_(together)


def test_letters_have_bursts_of_their_own() -> None:
    assert bursts([picture("a", 7, "A"), picture("b", 7, "B"), picture("c", 7, "A")]).tolist() == [0, 1, 0]


def test_many_equal_pictures_are_one_burst() -> None:
    assert set(bursts([picture(str(n), FAR) for n in range(700)]).tolist()) == {0}


def test_bursts_are_those_of_every_pair_compared() -> None:
    rng = np.random.default_rng(0)
    scenes = [int.from_bytes(rng.bytes(8)) for _ in range(60)]
    hashes = [scenes[scene] ^ (1 << int(bit)) for scene, bit in rng.integers([60, 64], size=(900, 2))]
    numbers = bursts([picture(str(n), value) for n, value in enumerate(hashes)])
    seen: dict[int, int] = {}
    for value, number in zip(hashes, numbers.tolist(), strict=True):
        scene = min(range(60), key=lambda n: (scenes[n] ^ value).bit_count())
        assert seen.setdefault(scene, number) == number
    assert len(set(numbers.tolist())) == len(seen)


def test_no_pictures() -> None:
    assert bursts([]).tolist() == []
    assert has_near_copy([], [picture("a", 1)]).tolist() == []


def test_near_copies_count_within_a_letter_alone() -> None:
    training = [picture("a", FAR), picture("b", 0, "B")]
    tests = [
        picture("c", flipped(FAR, NEAR)),
        picture("d", flipped(FAR, NEAR + 1)),
        picture("e", 0),
        picture("f", 0, "C"),
    ]
    assert has_near_copy(tests, training).tolist() == [True, False, False, False]


def test_lag_after_which_a_film_has_moved_on() -> None:
    rng = np.random.default_rng(0)
    film = []
    for scene in range(40):  # ten frames that hardly differ, then others
        value = int.from_bytes(rng.bytes(8))
        film += [picture(f"{scene}-{n}", flipped(value, n % 3), frame=3 * (10 * scene + n)) for n in range(10)]
    assert 24 <= near_lag(film) <= 33  # frames are numbered in threes
    assert near_lag(film[:1]) == 0
