"""The test set is untouchable: properties of all protocols, each for data sets that hypothesis thinks up."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingerspell.dataset import Picture
from fingerspell.errors import SplitError
from fingerspell.neighbours import NEAR, has_near_copy
from fingerspell.recipes import Protocol, SplitOptions
from fingerspell.splits import Split, everybody, is_within, read_groups, split_pictures

OPTIONS: dict[Protocol, SplitOptions] = {
    "first-per-class": SplitOptions(protocol="first-per-class", test_per_class=3),
    "folders": SplitOptions(protocol="folders"),
    "random": SplitOptions(protocol="random", folds=5, fold=2),
    "blocks": SplitOptions(protocol="blocks", folds=5, fold=2, guard=1),
    "bursts": SplitOptions(protocol="bursts", folds=5, fold=2),
    "groups": SplitOptions(protocol="groups", folds=5, fold=2),
    "leave-one-group-out": SplitOptions(protocol="leave-one-group-out", held_out="signer2"),
}

every_protocol = pytest.mark.parametrize("protocol", OPTIONS)
examples = settings(max_examples=20, deadline=None)


def film(letters: str = "ABJ", count: int = 20, *, start: int = 1, step: int = 1, part: str = "") -> list[Picture]:
    """Numbered pictures A1, A2, ... of each letter, all different."""
    frames = range(start, start + count * step, step)
    return [
        Picture(f"{part}{x}/{x}{n}.jpg", x, sha256=f"{part}{x}{n}", frame=n, part=part, dhash=unlike(f"{part}{x}{n}"))
        for x in letters
        for n in frames
    ]


def unlike(name: str) -> str:
    """Difference hash that is far from that of any other name."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def signer_of(picture: Picture) -> str:
    return f"signer{(picture.frame or 0) % 6}"


@st.composite
def data_sets(draw: st.DrawFn) -> list[Picture]:
    """Films of two to four letters in any order, a few pictures of which are copies of others."""
    pictures = [
        replace(picture, part="test" if (picture.frame or 0) % 4 == 0 else "train")
        for letter in draw(st.sets(st.sampled_from("ABCJZ"), min_size=2, max_size=4))
        for picture in film(letter, draw(st.integers(20, 40)), start=draw(st.integers(0, 900)))
    ]
    some = st.integers(0, len(pictures) - 1)
    for copy, original in draw(st.lists(st.tuples(some, some), max_size=3)):
        pictures[copy] = replace(pictures[copy], sha256=pictures[original].sha256)
    return draw(st.permutations(pictures))


def split(pictures: list[Picture], options: SplitOptions, seed: int = 0) -> Split:
    if options.protocol in ("first-per-class", "blocks", "bursts"):  # which leave a test folder alone
        pictures = [replace(picture, part="") for picture in pictures]
    return split_pictures(pictures, options, seed=seed, groups={p.id: signer_of(p) for p in pictures})


def ids(pictures: tuple[Picture, ...]) -> set[str]:
    return {picture.id for picture in pictures}


def contents(pictures: tuple[Picture, ...]) -> set[str]:
    return {picture.sha256 for picture in pictures}


def used(result: Split) -> set[str]:
    return ids(result.train) | ids(result.validation)


class TestEveryProtocol:
    @every_protocol
    @given(pictures=data_sets(), seed=st.integers(0, 1000))
    @examples
    def test_no_picture_and_no_content_has_two_roles(
        self, protocol: Protocol, pictures: list[Picture], seed: int
    ) -> None:
        result = split(pictures, OPTIONS[protocol], seed)
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not ids(getattr(result, one)) & ids(getattr(result, other))
            assert not contents(getattr(result, one)) & contents(getattr(result, other))

    @every_protocol
    @given(pictures=data_sets(), seed=st.integers(0, 1000))
    @examples
    def test_each_picture_has_a_role_or_is_counted(
        self, protocol: Protocol, pictures: list[Picture], seed: int
    ) -> None:
        options = replace(OPTIONS[protocol], guard=0)
        result = split(pictures, options, seed)
        roles = [*result.train, *result.validation, *result.test]
        assert len(roles) == len({p.id for p in roles}) == len(pictures) - result.duplicates_dropped

    @every_protocol
    @given(pictures=data_sets(), seed=st.integers(0, 1000))
    @examples
    def test_every_letter_is_in_train_and_test(self, protocol: Protocol, pictures: list[Picture], seed: int) -> None:
        result = split(pictures, OPTIONS[protocol], seed)
        letters = {picture.label for picture in pictures}
        assert {p.label for p in result.train} == letters
        assert {p.label for p in result.test} == letters

    @every_protocol
    @given(pictures=data_sets(), seed=st.integers(0, 1000))
    @examples
    def test_same_seed_same_split(self, protocol: Protocol, pictures: list[Picture], seed: int) -> None:
        assert split(pictures, OPTIONS[protocol], seed) == split(pictures, OPTIONS[protocol], seed)

    @every_protocol
    @given(pictures=data_sets(), seed=st.integers(0, 1000))
    @examples
    def test_the_order_of_the_archive_decides_nothing_but_the_order(
        self, protocol: Protocol, pictures: list[Picture], seed: int
    ) -> None:
        options = replace(OPTIONS[protocol], sample=len(pictures) // 2 if seed % 2 else None)
        result, other = split(pictures, options, seed), split(sorted(pictures, key=lambda p: p.id), options, seed)
        for role in ("train", "validation", "test"):
            assert ids(getattr(result, role)) == ids(getattr(other, role))
            order = [p.id for p in pictures if p.id in ids(getattr(result, role))]
            assert [p.id for p in getattr(result, role)] == order

    @every_protocol
    def test_another_seed_draws_another_test_set_and_nothing_else(self, protocol: Protocol) -> None:
        pictures = [replace(p, part="test" if (p.frame or 0) % 4 == 0 else "train") for p in film("AB", 60)]
        splits = [split(pictures, OPTIONS[protocol], seed) for seed in range(10)]
        tests, validations = {s.test for s in splits}, {s.validation for s in splits}
        if protocol in {"random", "bursts", "groups"}:
            assert len(tests) > 1
        else:
            assert len(tests) == len(validations) == 1

    @pytest.mark.parametrize("protocol", ["first-per-class", "folders", "blocks"])
    def test_the_test_set_of_these_does_not_hang_on_the_seed(self, protocol: Protocol) -> None:
        pictures = [replace(p, part="test" if (p.frame or 0) % 4 == 0 else "train") for p in film()]
        assert len({split(pictures, OPTIONS[protocol], seed).test for seed in range(5)}) == 1

    @pytest.mark.parametrize("protocol", ["first-per-class", "random"])
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
    def test_validation_is_a_share_of_each_letter(self, protocol: Protocol, share: float) -> None:
        result = split(film(count=50), replace(OPTIONS[protocol], test_per_class=10, validation=share))
        assert Counter(p.label for p in result.validation) == dict.fromkeys("ABJ", round(share * 40))
        assert Counter(p.label for p in result.train) == dict.fromkeys("ABJ", 40 - round(share * 40))


class TestDuplicates:
    def test_copies_of_test_pictures_leave_train_and_are_counted(self) -> None:
        pictures = film("AB", 10)
        pictures[9] = replace(pictures[9], sha256=pictures[0].sha256)  # A10 is A1 again
        result = split(pictures, SplitOptions(test_per_class=2))
        assert "A/A1.jpg" in ids(result.test)
        assert "A/A10.jpg" not in used(result)
        assert result.duplicates_dropped == 1

    def test_copies_of_validation_pictures_leave_train(self) -> None:
        pictures = [replace(p, sha256="same") if (p.frame or 0) > 17 else p for p in film("A", 20)]
        splits = [split(pictures, SplitOptions(test_per_class=5, validation=share / 10)) for share in range(1, 10)]
        assert {"same" in contents(s.validation) for s in splits} == {True, False}
        for result in splits:
            kept = [p for p in (*result.train, *result.validation) if p.sha256 == "same"]
            assert len(kept) == 3 - result.duplicates_dropped
            assert ("same" in contents(result.train)) != ("same" in contents(result.validation))

    def test_a_copy_under_another_letter_counts_too(self) -> None:
        pictures = film("AB", 10)
        pictures[19] = replace(pictures[19], sha256=pictures[0].sha256)  # B10 is A1
        assert "B/B10.jpg" not in used(split(pictures, SplitOptions(test_per_class=2)))

    def test_none_are_dropped_where_there_are_none(self) -> None:
        assert split(film(), OPTIONS["random"]).duplicates_dropped == 0


class TestSample:
    @given(size=st.integers(30, 150), seed=st.integers(0, 100))
    @examples
    def test_it_is_exact(self, size: int, seed: int) -> None:
        result = split(film(count=60), SplitOptions(test_per_class=10, sample=size), seed)
        assert len(result.train) + len(result.validation) == size
        assert len(result.test) == 30

    @given(sizes=st.tuples(st.integers(30, 150), st.integers(30, 150)), seeds=st.tuples(st.integers(0), st.integers(0)))
    @examples
    def test_the_smaller_lies_within_the_larger_whatever_the_seed(
        self, sizes: tuple[int, int], seeds: tuple[int, int]
    ) -> None:
        small, large = sorted(sizes)
        first = split(film(count=60), SplitOptions(test_per_class=10, sample=small), seeds[0])
        second = split(film(count=60), SplitOptions(test_per_class=10, sample=large), seeds[1])
        assert used(first) <= used(second)

    def test_it_is_spread_over_the_film(self) -> None:
        result = split(film("A", 1010), SplitOptions(test_per_class=10, sample=200))
        frames = [p.frame or 0 for p in (*result.train, *result.validation)]
        assert Counter(frame // 256 for frame in frames).keys() == {0, 1, 2, 3}
        assert 400 < sum(frames) / len(frames) < 620

    def test_one_larger_than_the_pool_takes_all_and_says_so(self) -> None:
        result = split(film(count=20), SplitOptions(test_per_class=10, sample=1000))
        assert len(used(result)) == 30
        assert result.notes == ("The sample of 1,000 is all of the 30 pictures there are.",)

    def test_one_of_the_size_of_the_pool_needs_no_word(self) -> None:
        assert split(film(count=20), SplitOptions(test_per_class=10, sample=30)).notes == ()

    def test_the_own_validation_set_is_not_sampled(self) -> None:
        result = split(film(count=50), replace(OPTIONS["blocks"], sample=20))
        assert len(result.train) == 20
        assert len(result.validation) == 3 * 9  # a stretch of ten, less the guard of one


class TestFirstPerClass:
    @given(pictures=data_sets(), count=st.integers(1, 10))
    @examples
    def test_test_is_the_first_of_each_letter_by_frame_number(self, pictures: list[Picture], count: int) -> None:
        result = split(pictures, SplitOptions(test_per_class=count))
        for letter in {picture.label for picture in pictures}:
            frames = sorted(p.frame or 0 for p in pictures if p.label == letter)
            assert sorted(p.frame or 0 for p in result.test if p.label == letter) == frames[:count]

    def test_ten_comes_after_nine_and_not_after_one(self) -> None:
        result = split(film("A", 120), SplitOptions(test_per_class=10))
        assert [p.id for p in result.test] == [f"A/A{n}.jpg" for n in range(1, 11)]

    def test_pictures_without_a_number_come_last_by_name(self) -> None:
        pictures = [Picture(f"A/{name}.jpg", "A", sha256=name) for name in ("b", "a", "d", "c")] + film("A", 2)
        assert ids(split(pictures, SplitOptions(test_per_class=3)).test) == {"A/A1.jpg", "A/A2.jpg", "A/a.jpg"}

    def test_the_sets_own_test_folder_is_left_out_and_that_is_said(self) -> None:
        result = split_pictures(film() + film(count=2, part="test"), SplitOptions(test_per_class=5), seed=0)
        assert len(result.test) == 15
        assert not any(p.part == "test" for p in (*result.train, *result.validation, *result.test))
        assert result.notes == ("6 pictures of the set's own test folder are not used.",)

    def test_a_set_that_is_all_test_folder_is_used(self) -> None:
        assert len(split_pictures(film(part="test"), SplitOptions(test_per_class=5), seed=0).test) == 15


class TestReferenceLeak:
    OPTIONS = SplitOptions(test_per_class=5, reference_leak=True)

    def test_the_test_pictures_stay_in_the_pool(self) -> None:
        result = split(film(), self.OPTIONS)
        assert len(result.test) == 15
        assert ids(result.test) < used(result)
        assert len(used(result)) == 60

    def test_train_and_validation_stay_apart(self) -> None:
        result = split(film(), self.OPTIONS)
        assert not ids(result.train) & ids(result.validation)

    def test_it_is_said(self) -> None:
        assert any(
            note.startswith("Reference leak: the test pictures were left") for note in split(film(), self.OPTIONS).notes
        )

    def test_the_test_set_is_the_one_without_the_leak(self) -> None:
        assert split(film(), self.OPTIONS).test == split(film(), replace(self.OPTIONS, reference_leak=False)).test

    def test_without_it_no_test_picture_is_in_the_pool(self) -> None:
        result = split(film(), replace(self.OPTIONS, reference_leak=False))
        assert not ids(result.test) & used(result)
        assert result.notes == ()

    @pytest.mark.parametrize("protocol", ["folders", "random", "blocks", "groups"])
    def test_it_goes_with_first_per_class_alone(self, protocol: Protocol) -> None:
        with pytest.raises(SplitError, match=rf"goes with first-per-class, not with {protocol}\. Leave one of the two"):
            split(film(), replace(OPTIONS[protocol], reference_leak=True))


class TestFolders:
    def test_parts_are_taken_as_they_are(self) -> None:
        train, validation, test = film(part="train"), film(count=3, part="validation"), film(count=2, part="test")
        result = split_pictures([*train, *validation, *test], OPTIONS["folders"], seed=0)
        assert (result.train, result.validation, result.test) == (tuple(train), tuple(validation), tuple(test))

    def test_without_a_validation_folder_a_share_of_train_is_taken(self) -> None:
        result = split_pictures(film(part="train") + film(count=2, part="test"), OPTIONS["folders"], seed=0)
        assert (len(result.train), len(result.validation), len(result.test)) == (48, 12, 6)
        assert {p.part for p in (*result.train, *result.validation)} == {"train"}


class TestFolds:
    @pytest.mark.parametrize("protocol", ["random", "blocks", "groups"])
    @given(pictures=data_sets(), seed=st.integers(0, 1000), folds=st.integers(3, 6))
    @examples
    def test_every_picture_is_tested_exactly_once(
        self, protocol: Protocol, pictures: list[Picture], seed: int, folds: int
    ) -> None:
        options = replace(OPTIONS[protocol], folds=folds, guard=0)
        tests = [split(pictures, replace(options, fold=fold), seed).test for fold in range(folds)]
        assert Counter(p.id for test in tests for p in test) == Counter(p.id for p in pictures)

    def test_random_folds_are_balanced_in_each_letter(self) -> None:
        for fold in range(5):
            result = split(film(count=22), replace(OPTIONS["random"], fold=fold))
            assert set(Counter(p.label for p in result.test).values()) <= {4, 5}

    def test_random_takes_no_stretch_of_the_film(self) -> None:
        frames = [p.frame or 0 for p in split(film("A", 100), OPTIONS["random"]).test]
        assert max(frames) - min(frames) > 50


class TestBlocks:
    @given(pictures=data_sets(), fold=st.integers(0, 4), guard=st.integers(0, 2))
    @examples
    def test_test_is_one_stretch_and_nobody_else_is_near(self, pictures: list[Picture], fold: int, guard: int) -> None:
        result = split(pictures, replace(OPTIONS["blocks"], fold=fold, guard=guard))
        for letter in {picture.label for picture in pictures}:
            held_out = sorted(p.frame or 0 for p in result.test if p.label == letter)
            inside = [p for p in pictures if p.label == letter and held_out[0] <= (p.frame or 0) <= held_out[-1]]
            assert len(inside) == len(held_out)
            others = [p.frame or 0 for p in (*result.train, *result.validation) if p.label == letter]
            assert not any(held_out[0] - guard <= frame <= held_out[-1] + guard for frame in others)

    @given(pictures=data_sets(), fold=st.integers(0, 4), guard=st.integers(0, 2))
    @examples
    def test_train_keeps_its_distance_from_validation_too(self, pictures: list[Picture], fold: int, guard: int) -> None:
        result = split(pictures, replace(OPTIONS["blocks"], fold=fold, guard=guard))
        pairs = product(result.train, result.validation)
        assert all(abs((a.frame or 0) - (b.frame or 0)) > guard for a, b in pairs if a.label == b.label)

    def test_the_guard_counts_frames_and_not_pictures(self) -> None:
        result = split(film("A", 20, step=10), SplitOptions(protocol="blocks", folds=5, fold=1, guard=15))
        assert [p.frame for p in result.test] == [41, 51, 61, 71]
        assert [p.frame for p in result.validation] == [91, 101, 111]
        assert [p.frame for p in result.train] == [1, 11, 21, 131, 141, 151, 161, 171, 181, 191]

    def test_the_last_fold_validates_on_the_first_stretch(self) -> None:
        result = split(film("A", 20), SplitOptions(protocol="blocks", folds=5, fold=4, guard=1))
        assert [p.frame for p in result.test] == [17, 18, 19, 20]
        assert [p.frame for p in result.validation] == [1, 2, 3, 4]
        assert [p.frame for p in result.train] == list(range(6, 16))

    def test_it_is_said_what_the_stretches_are(self) -> None:
        assert split(film(), OPTIONS["blocks"]).notes == (
            (
                "Test is stretch 2 of 5 of each letter's film, validation the one after it; frames within 1 of a "
                "cut are not used."
            ),
        )

    def test_the_sets_own_test_folder_is_left_out_and_that_is_said(self) -> None:
        pictures = [*film(), Picture("test/A_test.jpg", "A", sha256="x", part="test")]
        result = split_pictures(pictures, OPTIONS["blocks"], seed=0)
        assert result.notes[0] == "1 pictures of the set's own test folder are not used."


class TestGroups:
    @given(pictures=data_sets(), seed=st.integers(0, 1000), fold=st.integers(0, 4))
    @examples
    def test_nobody_stands_on_two_sides(self, pictures: list[Picture], seed: int, fold: int) -> None:
        result = split(pictures, replace(OPTIONS["groups"], fold=fold), seed)
        sides = [{signer_of(p) for p in role} for role in (result.train, result.validation, result.test)]
        assert sum(len(side) for side in sides) == len(set.union(*sides)) == 6

    def test_three_groups_are_enough(self) -> None:
        groups = {p.id: "xyz"[(p.frame or 0) % 3] for p in film()}
        result = split_pictures(film(), SplitOptions(protocol="groups"), seed=0, groups=groups)
        assert [len({groups[p.id] for p in role}) for role in (result.train, result.validation, result.test)] == [
            1,
            1,
            1,
        ]

    def test_it_is_said_who_is_held_out(self) -> None:
        result = split(film(), OPTIONS["groups"])
        (note,) = result.notes
        test = ", ".join(sorted({signer_of(p) for p in result.test}))
        validation = ", ".join(sorted({signer_of(p) for p in result.validation}))
        assert note == f"Test holds the group(s) {test}, validation {validation}."


def people(names: str = "abc", letters: str = "ABJ", count: int = 20) -> tuple[list[Picture], dict[str, str]]:
    """Films of several people, "a" of an archive of their own and the others of one, in bursts of four."""
    pictures = [
        replace(p, id=f"{name}/{p.id}", sha256=f"{name}{p.id}", dhash=unlike(f"{name}{p.label}{(p.frame or 0) // 4}"))
        for name in names
        for p in film(letters, count)
    ]
    return pictures, {p.id: "own" if p.id[0] == "a" else f"shared/{p.id[0]}" for p in pictures}


LOGO = SplitOptions(protocol="leave-one-group-out")


class TestLeaveOneGroupOut:
    @pytest.mark.parametrize(("held_out", "names"), [("own", "a"), ("shared", "bc"), ("shared/c", "c")])
    def test_the_group_and_all_below_it_are_the_test_set(self, held_out: str, names: str) -> None:
        pictures, groups = people()
        result = split_pictures(pictures, replace(LOGO, held_out=held_out), seed=0, groups=groups)
        assert ids(result.test) == {p.id for p in pictures if p.id[0] in names}
        assert used(result) == {p.id for p in pictures if p.id[0] not in names}
        assert result.notes[0].startswith(f"Test holds the group(s) {held_out}")

    @given(share=st.sampled_from([0.1, 0.2, 0.5]), count=st.integers(8, 40))
    @examples
    def test_validation_has_no_near_copy_in_train(self, share: float, count: int) -> None:
        pictures, groups = people(count=count)
        result = split_pictures(pictures, replace(LOGO, held_out="own", validation=share), seed=0, groups=groups)
        assert not has_near_copy(result.validation, result.train).any()
        assert {p.label for p in result.validation} == set("ABJ")
        assert len(result.validation) <= max(share * len(used(result)) + 3, 3 * 4)

    def test_validation_is_about_its_share(self) -> None:
        pictures, groups = people(count=200)
        result = split_pictures(pictures, replace(LOGO, held_out="own"), seed=0, groups=groups)
        assert len(result.validation) / len(used(result)) == pytest.approx(0.2, abs=0.03)

    def test_a_letter_of_one_burst_trains(self) -> None:
        pictures, groups = people()
        pictures = [replace(p, dhash=unlike("one")) if p.label == "J" else p for p in pictures]
        result = split_pictures(pictures, replace(LOGO, held_out="own"), seed=0, groups=groups)
        assert {p.label for p in result.validation} == {"A", "B"}
        assert sum(p.label == "J" for p in result.train) == 40

    def test_a_letter_that_the_group_lacks_is_learnt_all_the_same(self) -> None:
        pictures, groups = people()
        pictures = [p for p in pictures if p.label != "J" or p.id[0] != "a"]
        result = split_pictures(pictures, replace(LOGO, held_out="own"), seed=0, groups=groups)
        assert result.labels == ("A", "B", "J")
        assert {p.label for p in result.test} == {"A", "B"}

    def test_a_letter_that_nobody_else_has_is_not_measured_and_that_is_said(self) -> None:
        pictures, groups = people()
        pictures = [p for p in pictures if p.label != "J" or p.id[0] == "a"]
        result = split_pictures(pictures, replace(LOGO, held_out="own"), seed=0, groups=groups)
        assert result.labels == ("A", "B") == tuple(sorted({p.label for p in result.test}))
        assert result.notes[1] == "Nobody else shows J: nothing is measured on these letters."

    @pytest.mark.parametrize("held_out", [None, "share", "nobody", "shared/"])
    def test_a_name_that_is_none_is_refused_with_those_there_are(self, held_out: str | None) -> None:
        pictures, groups = people()
        given = f"--held-out {held_out}" if held_out else "no --held-out"
        with pytest.raises(SplitError, match=f"found the groups own, shared/b, shared/c and {given}; expected"):
            split_pictures(pictures, replace(LOGO, held_out=held_out), seed=0, groups=groups)

    def test_nobody_to_train_on_is_refused(self) -> None:
        pictures, groups = people("bc")
        with pytest.raises(SplitError, match=r"found the groups shared/b, shared/c and --held-out shared; expected"):
            split_pictures(pictures, replace(LOGO, held_out="shared"), seed=0, groups=groups)
        with pytest.raises(SplitError, match=r"found the groups none"):
            split_pictures(pictures, replace(LOGO, held_out="shared"), seed=0)

    def test_everybody_trains_where_the_model_is_measured_elsewhere(self) -> None:
        pictures, groups = people()
        result = everybody(pictures, replace(LOGO, per_group=8), groups)
        assert not result.test
        assert {p.id[0] for p in result.train} == set("abc")
        assert len(used(result)) == 3 * 3 * 8
        assert not has_near_copy(result.validation, result.train).any()

    def test_names_within(self) -> None:
        assert is_within("a/b", "a")
        assert is_within("a", "a")
        assert not is_within("ab", "a")


class TestPerGroup:
    def test_so_many_of_each_letter_and_group_evenly_spread(self) -> None:
        pictures, groups = people(count=21)
        result = split_pictures(pictures, replace(LOGO, held_out="own", per_group=5), seed=0, groups=groups)
        kept = [p for p in pictures if p.id in used(result)]
        assert Counter((p.label, p.id[0]) for p in kept) == dict.fromkeys(product("ABJ", "bc"), 5)
        assert sorted(p.frame or 0 for p in kept if p.label == "A" and p.id[0] == "b") == [1, 6, 11, 16, 21]
        assert len(result.test) == 63  # all of the test set
        assert "At most 5 pictures of each letter and group train: 30 of 126." in result.notes

    @pytest.mark.parametrize("protocol", ["leave-one-group-out", "bursts", "random", "first-per-class", "folders"])
    def test_rendered_pictures_only_train_beside_people(self, protocol: Protocol) -> None:
        pictures, groups = people("bcd", count=40)
        pictures = [replace(p, part="test" if (p.frame or 0) > 30 else "train") for p in pictures]
        if protocol in ("bursts", "first-per-class"):
            pictures = [replace(picture, part="") for picture in pictures]
        rendered = {p.id for p in pictures if p.id[0] == "d"}
        options = SplitOptions(protocol=protocol, held_out="shared/b", per_group=5, test_per_class=10)
        result = split_pictures(pictures, options, seed=0, groups=groups, rendered=rendered)
        drawn = [p for p in result.train if p.id in rendered]
        assert Counter(p.label for p in drawn) == dict.fromkeys("ABJ", 5)
        assert not rendered & (ids(result.test) | ids(result.validation))
        assert "15 rendered pictures train beside people's." in result.notes

    def test_rendered_pictures_have_no_part_in_a_protocol(self) -> None:
        pictures, groups = people("abcd", count=40)
        rendered = {p.id for p in pictures if p.id[0] == "d"}
        for fold in range(3):
            options = SplitOptions(protocol="groups", folds=3, fold=fold)
            result = split_pictures(pictures, options, seed=0, groups=groups, rendered=rendered)
            assert rendered <= ids(result.train)
            assert len(result.test) == 120
        unnumbered = [replace(p, frame=None) if p.id in rendered else p for p in pictures]
        blocks = split_pictures(unnumbered, SplitOptions(protocol="blocks", guard=1), seed=0, rendered=rendered)
        assert rendered <= ids(blocks.train)
        leak = SplitOptions(test_per_class=5, reference_leak=True)
        result = split_pictures(pictures, leak, seed=0, rendered=rendered)
        assert len(result.train) == len(ids(result.train))
        assert not rendered & ids(result.test)

    def test_rendered_pictures_stand_for_people_where_there_are_none(self) -> None:
        pictures, groups = people("bc", count=40)
        rendered = {p.id for p in pictures if p.id[0] == "c"}
        options = replace(LOGO, held_out="shared/b")
        result = split_pictures(pictures, options, seed=0, groups=groups, rendered=rendered)
        assert used(result) == rendered
        assert result.validation
        alone = split_pictures(pictures, options, seed=0, groups=groups, rendered={p.id for p in pictures})
        assert used(alone) == rendered
        assert ids(alone.test) == {p.id for p in pictures} - rendered

    def test_more_than_there_are_is_all(self) -> None:
        pictures, groups = people()
        few = split_pictures(pictures, replace(LOGO, held_out="own", per_group=1000), seed=0, groups=groups)
        assert used(few) == used(split_pictures(pictures, replace(LOGO, held_out="own"), seed=0, groups=groups))

    def test_other_protocols_take_it_too_and_who_has_no_group_is_in_one(self) -> None:
        result = split_pictures(film(count=50), SplitOptions(test_per_class=5, per_group=10), seed=0)
        assert Counter(p.label for p in (*result.train, *result.validation)) == dict.fromkeys("ABJ", 10)


def without_frames() -> list[Picture]:
    return [*film(), Picture("A/front.jpg", "A", sha256="x")]


NO_TRAIN = "split {}: no training pictures are left for {}: these letters have too few pictures, or copies of"
NO_FOLDER = (
    "split folders: the set has {} pictures under a train folder and 0 under a test folder; expected both. Choose"
)
TWO_FOLDS = "split {}: found 2 folds; expected at least 3, one each for train, validation and test. Raise folds"

# Pictures, options, number of groups, message.
ERRORS: dict[str, tuple[list[Picture], SplitOptions, int, str]] = {
    "blocks without frame numbers": (
        [*film(), Picture("A/front.jpg", "A", sha256="x")],
        OPTIONS["blocks"],
        6,
        "split blocks: A/front.jpg has no frame number at the end of its name, so its place in the film is unknown.",
    ),
    "no groups file": (
        film(),
        OPTIONS["groups"],
        0,
        "split groups needs to know who is who: give --groups FILE.csv[:COLUMN].",
    ),
    "two groups": (
        film(),
        OPTIONS["groups"],
        2,
        "split groups: found 2 group(s) (g0, g1); expected at least 3, one each for train, validation and test.",
    ),
    "no folders": (film(), OPTIONS["folders"], 0, NO_FOLDER.format(0)),
    "no test folder": (film(part="train"), OPTIONS["folders"], 0, NO_FOLDER.format(60)),
    "fold out of range": (
        film(),
        SplitOptions(protocol="random", folds=5, fold=5),
        0,
        "fold 5 of 5: they are numbered from 0 to 4.",
    ),
    "fold beyond the groups": (
        film(),
        SplitOptions(protocol="groups", folds=5, fold=3),
        3,
        "fold 3 of 3: they are numbered from 0 to 2.",
    ),
    "two blocks": (film(), SplitOptions(protocol="blocks", folds=2), 0, TWO_FOLDS.format("blocks")),
    "two folds of groups": (film(), SplitOptions(protocol="groups", folds=2), 6, TWO_FOLDS.format("groups")),
    "letters that are all test": (
        film() + film("K", 3) + film("Z", 5),
        SplitOptions(test_per_class=5),
        0,
        NO_TRAIN.format("first-per-class", "K, Z"),
    ),
    "a letter that is all validation": (
        film() + film("K", 6),
        SplitOptions(test_per_class=5),
        0,
        NO_TRAIN.format("first-per-class", "K"),
    ),
    "a sample that misses letters": (
        film(),
        SplitOptions(test_per_class=5, sample=1),
        0,
        NO_TRAIN.format("first-per-class", "A, B, J"),
    ),
    "a guard that eats all": (
        film(),
        SplitOptions(protocol="blocks", guard=100),
        0,
        NO_TRAIN.format("blocks", "A, B, J"),
    ),
    "no validation pictures": (
        [*film(part="train"), *film("A", 2, part="test"), Picture("copy", "A", sha256="testA1", part="validation")],
        OPTIONS["folders"],
        0,
        "split folders: no validation pictures are left. Choose another --split or a larger share.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_split_is_refused_with_a_reason(name: str) -> None:
    pictures, options, signers, message = ERRORS[name]
    groups = {p.id: f"g{(p.frame or 0) % signers}" for p in pictures} if signers else None
    with pytest.raises(SplitError) as caught:
        split_pictures(pictures, options, seed=0, groups=groups)
    assert str(caught.value).startswith(message)


class TestReadGroups:
    IDS = ("A/A1.jpg", "B/B1.jpg")

    def test_one_column_needs_no_name(self) -> None:
        assert read_groups(b"path,signer\nA/A1.jpg,ann\nB/B1.jpg,bob\n", None, self.IDS) == {
            "A/A1.jpg": "ann",
            "B/B1.jpg": "bob",
        }

    def test_a_column_is_found_by_name(self) -> None:
        text = "path,light,signer,room\nA/A1.jpg,day,ann,1\nB/B1.jpg,night,bob,2\n"
        assert read_groups(text.encode(), "signer", self.IDS) == {"A/A1.jpg": "ann", "B/B1.jpg": "bob"}

    def test_rows_of_other_files_and_order_do_not_matter(self) -> None:
        text = "path,signer\nother.jpg,eve\nB/B1.jpg,bob\nA/A1.jpg,ann\n"
        assert list(read_groups(text.encode(), None, self.IDS)) == list(self.IDS)

    def test_a_byte_order_mark_and_quotes_are_no_trouble(self) -> None:
        text = '\ufeff"path","signer"\r\n"A/A1.jpg","ann, the first"\r\nB/B1.jpg,bob\r\n'
        assert read_groups(text.encode(), "signer", self.IDS)["A/A1.jpg"] == "ann, the first"

    @pytest.mark.parametrize(
        ("text", "column", "message"),
        [
            (
                "path,light,signer\n",
                None,
                (
                    "the groups file has the columns path, light, signer; expected the picture's path first and "
                    "one column of groups. Name the column: --groups FILE:COLUMN."
                ),
            ),
            (
                "path,light\n",
                "signer",
                "the groups file has the columns path, light; expected the picture's path first and a column 'signer'.",
            ),
            ("path\n", None, "the groups file has the columns path; expected the picture's path first and one column"),
            ("", None, "the groups file has the columns none; expected the picture's path first"),
            (
                "path,signer\nA/A1.jpg,ann\n",
                None,
                (
                    "1 of 2 pictures have no group (the first: B/B1.jpg). Expected one row for each picture, its path "
                    "written as in the archive."
                ),
            ),
            ("path,signer\nA/A1.jpg,ann\nB/B1.jpg,\n", None, "1 of 2 pictures have no group (the first: B/B1.jpg)."),
            ("path,signer\nA/A1.jpg\n\nB/B1.jpg,bob\n", None, "1 of 2 pictures have no group (the first: A/A1.jpg)."),
        ],
    )
    def test_what_is_missing_is_told(self, text: str, column: str | None, message: str) -> None:
        with pytest.raises(SplitError) as caught:
            read_groups(text.encode(), column, self.IDS)
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize("data", [b"path,signer\nA/A1.jpg,\xff\n", b'path,signer\nA/A1.jpg,"ann\n'])
    def test_what_is_no_csv_file_is_refused(self, data: bytes) -> None:
        with pytest.raises(SplitError, match=r"the groups file is no csv file in UTF-8 .*Save it as one"):
            read_groups(data, None, self.IDS)


class TestCsv:
    def test_one_row_a_picture_with_its_role(self) -> None:
        result = split(film("AB", 10), SplitOptions(test_per_class=2))
        rows = list(csv.DictReader(io.StringIO(result.to_csv())))
        assert [list(row) for row in rows] == [["id", "label", "sha256", "role"]] * 20
        for role in ("train", "validation", "test"):
            expected = [(p.id, p.label, p.sha256) for p in getattr(result, role)]
            assert [(r["id"], r["label"], r["sha256"]) for r in rows if r["role"] == role] == expected

    def test_same_for_the_same_seed(self) -> None:
        assert split(film(), OPTIONS["random"], 3).to_csv() == split(film(), OPTIONS["random"], 3).to_csv()

    def test_a_leaked_picture_has_a_row_for_each_role(self) -> None:
        rows = list(csv.DictReader(io.StringIO(split(film("A", 10), TestReferenceLeak.OPTIONS).to_csv())))
        assert len(rows) == 15
        assert {row["role"] for row in rows if row["id"] == "A/A1.jpg"} > {"test"}


class TestBursts:
    def scenes(self, letter: str, sizes: list[int]) -> list[Picture]:
        """Film of scenes of so many frames, which are alike within a scene and nowhere else."""
        frame, pictures = 0, []
        for number, size in enumerate(sizes):
            for _ in range(size):
                name = f"{letter}{frame}"
                look = unlike(f"{letter} scene {number}")
                pictures.append(Picture(f"{letter}/{name}.jpg", letter, sha256=name, frame=frame, dhash=look))
                frame += 1
        return pictures

    @given(sizes=st.lists(st.integers(1, 12), min_size=5, max_size=12), fold=st.integers(0, 4), seed=st.integers(0, 99))
    @examples
    def test_whole_bursts_stay_on_one_side(self, sizes: list[int], fold: int, seed: int) -> None:
        pictures = self.scenes("A", sizes) + self.scenes("B", sizes[::-1])
        result = split_pictures(pictures, SplitOptions(protocol="bursts", folds=5, fold=fold), seed=seed)
        sides = [{p.dhash for p in getattr(result, role)} for role in ("train", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 2 * len(sizes)
        assert all(sides)

    def test_every_picture_is_tested_in_one_fold(self) -> None:
        pictures = self.scenes("A", [3, 9, 2, 4, 4, 7]) + self.scenes("B", [5] * 5)
        tests = [
            p.id
            for fold in range(5)
            for p in split_pictures(pictures, SplitOptions(protocol="bursts", fold=fold), seed=3).test
        ]
        assert sorted(tests) == sorted(p.id for p in pictures)

    def test_parts_are_about_as_large_as_the_bursts_allow(self) -> None:
        result = split_pictures(self.scenes("A", [4] * 50) + self.scenes("B", [8] * 50), OPTIONS["bursts"], seed=0)
        assert Counter(p.label for p in result.test) == {"A": 40, "B": 80}

    def test_a_letter_with_one_burst_is_cut_and_named(self) -> None:
        drifting = [  # each frame differs from the one before in one bit: a chain whose ends are far apart
            Picture(f"J/J{n}.jpg", "J", sha256=f"J{n}", frame=n, dhash=f"{(1 << min(n, 64)) - 1:016x}")
            for n in range(60)
        ]
        result = split_pictures(self.scenes("A", [10] * 10) + drifting, OPTIONS["bursts"], seed=0)
        frames = {role: [p.frame for p in getattr(result, role) if p.label == "J"] for role in ("test", "validation")}
        assert frames == {"test": list(range(24, 36)), "validation": list(range(36 + NEAR, 48))}
        assert "Fewer than 3 bursts of J: cut into stretches of film instead" in " ".join(result.notes)

    def test_a_letter_whose_pictures_are_all_alike_is_not_tested(self) -> None:
        result = split_pictures(self.scenes("A", [10] * 10) + self.scenes("J", [30]), OPTIONS["bursts"], seed=0)
        assert {p.label for p in result.test} == {"A"}

    def test_a_letter_that_cannot_be_cut_is_not_tested_and_named(self) -> None:
        pictures = self.scenes("A", [10] * 10) + [replace(p, frame=None) for p in self.scenes("J", [30])]
        result = split_pictures(pictures, OPTIONS["bursts"], seed=0)
        assert {p.label for p in result.test} == {p.label for p in result.validation} == {"A"}
        assert "nothing is measured on these letters" in " ".join(result.notes)


def test_the_guard_of_blocks_is_measured_where_it_is_not_given() -> None:
    pictures = TestBursts().scenes("A", [10] * 40)
    result = split_pictures(pictures, SplitOptions(protocol="blocks", fold=2), seed=0)
    assert {p.dhash for p in result.test}.isdisjoint(p.dhash for p in (*result.train, *result.validation))
    assert 0.5 * len(pictures) < len(result.train) < 0.6 * len(pictures)
