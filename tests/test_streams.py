"""Work beside the consuming thread: in order, bounded, and errors come through."""

from __future__ import annotations

import threading
import time
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from fingerspell.streams import batched, ordered_map, processors

if TYPE_CHECKING:
    from collections.abc import Iterator


class Source:
    """Numbers that know how many of them were drawn, and in which thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.drawn = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.drawn += 1
            self.threads.add(threading.get_ident())
            yield number


def large(_: object) -> int:
    return 1_000_000


def double(number: int) -> int:
    return 2 * number


class TestOrderedMap:
    @pytest.mark.parametrize("ahead", [0, 1, 7, 256])
    @pytest.mark.parametrize("count", [0, 1, 7, 8, 300])
    def test_all_results_in_order(self, count: int, ahead: int) -> None:
        assert list(ordered_map(double, range(count), ahead=ahead, size=large)) == [
            2 * number for number in range(count)
        ]

    def test_order_is_kept_where_later_items_are_done_first(self) -> None:
        def slow_at_first(number: int) -> int:
            time.sleep(0.05 if number == 0 else 0)
            return number

        assert list(ordered_map(slow_at_first, range(20), ahead=8, size=large)) == list(range(20))

    def test_no_more_items_are_drawn_than_ahead(self) -> None:
        source = Source(100)
        taken = 0
        for _ in ordered_map(double, source, ahead=5, size=large):
            taken += 1
            assert source.drawn <= taken + 5
        assert (taken, source.drawn) == (100, 100)

    def test_nothing_is_drawn_before_it_is_asked_for(self) -> None:
        source = Source(100)
        ordered_map(double, source, size=large)
        assert source.drawn == 0

    def test_an_abandoned_stream_draws_no_more(self) -> None:
        source = Source(100)
        stream = ordered_map(double, source, ahead=5, size=large)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert source.drawn == 6

    def test_an_abandoned_stream_leaves_no_thread(self) -> None:
        before = threading.active_count()
        stream = ordered_map(double, range(100), ahead=5, size=large)
        next(stream)
        assert threading.active_count() > before
        stream.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before

    def test_items_are_drawn_in_the_consuming_thread_and_work_is_done_in_others(self) -> None:
        source = Source(50)
        workers = set(ordered_map(lambda _: threading.get_ident(), source, size=large))
        assert source.threads == {threading.get_ident()}
        assert threading.get_ident() not in workers

    def test_small_items_are_not_handed_over(self) -> None:
        workers = list(ordered_map(lambda _: threading.get_ident(), range(6), size=lambda n: n % 2 * 1_000_000))
        assert set(workers[::2]) == {threading.get_ident()}
        assert threading.get_ident() not in workers[1::2]

    def test_an_error_of_the_work_comes_at_its_place(self) -> None:
        def fail_at_three(number: int) -> int:
            if number == 3:
                raise ValueError("three")
            return number

        results: list[int] = []
        with pytest.raises(ValueError, match="three"):
            results.extend(_kept(ordered_map(fail_at_three, range(10), size=large), results))
        assert results == [0, 1, 2]

    def test_an_error_of_the_source_comes_through(self) -> None:
        def source() -> Iterator[int]:
            yield 0
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            list(ordered_map(double, source(), size=large))


def _kept(stream: Iterator[int], results: list[int]) -> list[int]:
    """Append one by one, so that what came before an error is kept."""
    for result in stream:
        results.append(result)  # noqa: PERF402
    return []


class TestBatched:
    @pytest.mark.parametrize(
        ("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])]
    )
    def test_full_batches_and_a_rest(self, count: int, sizes: list[int]) -> None:
        batches = list(batched(range(count), 3))
        assert [len(batch) for batch in batches] == sizes
        assert list(chain.from_iterable(batches)) == list(range(count))

    def test_only_what_is_asked_for_is_drawn(self) -> None:
        source = Source(100)
        next(batched(source, 10))
        assert source.drawn == 10


def test_at_least_one_processor() -> None:
    assert processors() >= 1
