"""Named ways to divide a data set into train, validation and test.

``first-per-class``  the reference study: the first pictures of each letter, in frame order, are the test set
``folders``          the set's own train and test folders
``random``           one of k random parts of each letter; the way that flatters
``blocks``           one of k contiguous stretches of each letter's film, with a gap of unused frames around it
``bursts``           one of k sets of bursts of each letter (``neighbours``): near-copies stay on one side
``groups``           one of k sets of groups (signers): nobody stands on both sides
``leave-one-group-out``  a named group and those below it; the others train, and validate by whole bursts

Groups are the archives that are read together, and the signers in them (``groups.py``): "people/anna" lies below
"people". ``per_group`` keeps a group with many pictures, such as a long film, from drowning the others.

The test set is drawn from the seed, where it is drawn at all. Whatever a protocol says, a picture whose bytes are in
the test set is taken out of training and validation, and one whose bytes are in validation out of training.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from fingerspell.alphabet import LETTERS
from fingerspell.errors import SplitError, listed
from fingerspell.files import csv_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fingerspell.dataset import Picture
    from fingerspell.recipes import SplitOptions

    _Protocol = Callable[[Sequence[Picture], SplitOptions, np.random.Generator, Mapping[str, str]], "_Division"]

Role = Literal["train", "validation", "test"]
Pictures = tuple["Picture", ...]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """Pictures of the three roles, each sorted as in the archive, and what a reader of the scores must know.

    Attributes
    ----------
    train, validation, test : tuple of Picture
        No picture, and no content, stands in two of them (but for ``reference_leak``).
    duplicates_dropped : int
        Pictures taken out because another role holds the same bytes.
    notes : tuple of str
        Plain sentences about this division.
    """

    train: Pictures
    validation: Pictures
    test: Pictures
    duplicates_dropped: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Letters of the training pictures, in the order of the alphabet."""
        there = {picture.label for picture in self.train}
        return tuple(letter for letter in LETTERS if letter in there)

    def to_csv(self) -> str:
        """Table id, label, sha256, role."""
        roles = ("train", "validation", "test")
        rows = ((p.id, p.label, p.sha256, role) for role in roles for p in getattr(self, role))
        return csv_text(["id", "label", "sha256", "role"], rows)


def split_pictures(
    pictures: Sequence[Picture],
    options: SplitOptions,
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
    rendered: Collection[str] = (),
) -> Split:
    """Divide good pictures of letters into train, validation and test.

    Parameters
    ----------
    pictures
        As ``Dataset.letters()`` gives them.
    options
        Protocol and its numbers.
    seed
        Of the test set, where the protocol draws one (random, bursts, groups). Which pictures ``sample`` takes and
        which of them validate is the same for every seed, and the larger sample holds the smaller, so that features
        once computed serve again.
    groups
        Picture id to group, for the protocols of groups and for ``per_group``.
    rendered
        Ids of rendered pictures. They only train, where there are people to test and to validate on.

    Raises
    ------
    SplitError
        If the pictures lack what the protocol needs, a letter would have no training pictures, or validation or test
        would be empty.
    """
    if options.reference_leak and options.protocol != "first-per-class":
        raise SplitError(
            f"the reference leak is a mistake of the study's own split: it goes with first-per-class, "
            f"not with {options.protocol}. Leave one of the two out."
        )
    _check_fold(options.fold, options.folds)
    if options.folds < 3 and options.protocol in ("blocks", "bursts", "groups"):
        raise SplitError(
            f"split {options.protocol}: found {options.folds} folds; expected at least 3, one each for train, "
            "validation and test. Raise folds in the recipe."
        )
    rng = np.random.default_rng(seed)
    # Who is held out is named; elsewhere rendered pictures have no part in the protocol.
    people = list(pictures) if options.protocol == "leave-one-group-out" else measurable(pictures, rendered)
    division = PROTOCOLS[options.protocol](people, options, rng, groups or {})
    division = replace(division, pool=[*division.pool, *_without(pictures, people)])
    train, validation, notes = _fill(division, options, groups or {}, rendered)
    train, validation, dropped = _without_duplicates(train, validation, division.test, leak=options.reference_leak)
    in_order = partial(_sorted_as, pictures)
    split = Split(in_order(train), in_order(validation), in_order(division.test), dropped, (*division.notes, *notes))
    _check(split, options.protocol, {picture.label for picture in pictures} - division.untaught)
    return split


def everybody(
    pictures: Sequence[Picture], options: SplitOptions, groups: Mapping[str, str], rendered: Collection[str] = ()
) -> Split:
    """Split without a test set, for a model that is measured elsewhere: the pool of ``leave-one-group-out`` is all.

    Parameters are those of ``split_pictures``.
    """
    train, validation, notes = _fill(_Division([], list(pictures), by_bursts=True), options, groups, rendered)
    train, validation, dropped = _without_duplicates(train, validation, [], leak=False)
    in_order = partial(_sorted_as, pictures)
    split = Split(in_order(train), in_order(validation), (), dropped, ("All groups train.", *notes))
    _check(split, options.protocol, {picture.label for picture in pictures}, roles=("validation",))
    return split


def measurable(pictures: Sequence[Picture], rendered: Collection[str]) -> list[Picture]:
    """Pictures that something may be measured on: those of people, or where there are none, rendered ones."""
    return [picture for picture in pictures if picture.id not in rendered] or list(pictures)


def is_within(name: str, group: str) -> bool:
    """Whether a name is that of a group, or lies below it."""
    return name == group or name.startswith(f"{group}/")


def read_groups(data: bytes, column: str | None, ids: Sequence[str]) -> dict[str, str]:
    """Group of each picture from a csv file whose first column is the picture's path.

    Parameters
    ----------
    data
        Content of the file: UTF-8 text with a header line.
    column
        Name of the column with the groups; None if the file has just one besides the path.
    ids
        Pictures that need a group.

    Raises
    ------
    SplitError
        If the file is no table, the column cannot be told, or a picture has no row.
    """
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SplitError(f"the groups file is no csv file in UTF-8 ({error}). Save it as one.") from error
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    candidates = header[1:] if column is None else [name for name in header[1:] if name == column]
    if len(candidates) != 1:
        raise SplitError(
            f"the groups file has the columns {listed(header, 20) or 'none'}; expected the picture's path first and "
            f"{'one column of groups' if column is None else f'a column {column!r}'}. "
            "Name the column: --groups FILE:COLUMN."
        )
    place = header.index(candidates[0])
    groups = {row[0]: row[place] for row in body if len(row) > place and row[place]}
    absent = [picture_id for picture_id in ids if picture_id not in groups]
    if absent:
        raise SplitError(
            f"{len(absent)} of {len(ids)} pictures have no group (the first: {absent[0]}). "
            "Expected one row for each picture, its path written as in the archive."
        )
    return {picture_id: groups[picture_id] for picture_id in ids}


@dataclass(frozen=True)
class _Division:
    """What a protocol decides: the test set, who may be trained on, and a validation set if it must be its own.

    Without one, validation is a share of the pool, by whole bursts or picture by picture. Letters that are untaught are
    in no other role either.
    """

    test: list[Picture]
    pool: list[Picture]
    validation: list[Picture] | None = None
    notes: tuple[str, ...] = ()
    by_bursts: bool = False
    untaught: frozenset[str] = frozenset()


def _without_test_folder(pictures: Sequence[Picture]) -> tuple[list[Picture], list[str]]:
    """Pictures outside the set's own test folder (all, if there are no others), and a note if some are left out."""
    own = [picture for picture in pictures if picture.part != "test"] or list(pictures)
    left_out = len(pictures) - len(own)
    return own, [f"{left_out} pictures of the set's own test folder are not used."] if left_out else []


def _first_per_class(
    pictures: Sequence[Picture], options: SplitOptions, _rng: np.random.Generator, _groups: Mapping[str, str]
) -> _Division:
    own, notes = _without_test_folder(pictures)
    test, rest = [], []
    for letter in _by_letter(own, _frame_order):
        test += letter[: options.test_per_class]
        rest += letter[options.test_per_class :]
    if options.reference_leak:
        notes.append("Reference leak: the test pictures were left in the training pool, as in the study's code.")
    return _Division(test, own if options.reference_leak else rest, notes=tuple(notes))


def _folders(
    pictures: Sequence[Picture], _options: SplitOptions, _rng: np.random.Generator, _groups: Mapping[str, str]
) -> _Division:
    parts = {part: [p for p in pictures if p.part == part] for part in ("train", "validation", "test")}
    if not parts["train"] or not parts["test"]:
        raise SplitError(
            f"split folders: the set has {len(parts['train'])} pictures under a train folder and {len(parts['test'])} "
            "under a test folder; expected both. Choose another --split: first-per-class, random or blocks."
        )
    return _Division(parts["test"], parts["train"], parts["validation"] or None)


def _random(
    pictures: Sequence[Picture], options: SplitOptions, rng: np.random.Generator, _groups: Mapping[str, str]
) -> _Division:
    test: list[Picture] = []
    pool: list[Picture] = []
    for letter in _by_letter(pictures, lambda p: p.id):
        parts = _parts([letter[i] for i in rng.permutation(len(letter))], options.folds)
        test += parts.pop(options.fold)
        pool += chain.from_iterable(parts)
    return _Division(test, pool)


def _blocks(
    pictures: Sequence[Picture], options: SplitOptions, _rng: np.random.Generator, _groups: Mapping[str, str]
) -> _Division:
    own, notes = _without_test_folder(pictures)
    unnumbered = next((picture for picture in own if picture.frame is None), None)
    if unnumbered:
        raise SplitError(
            f"split blocks: {unnumbered.id} has no frame number at the end of its name, so its place in the film is "
            "unknown. Choose another --split."
        )
    guard = _guard(own, options)
    stretches = [_stretches(letter, options, guard) for letter in _by_letter(own, _frame_order)]
    notes.append(
        f"Test is stretch {options.fold} of {options.folds} of each letter's film, validation the one after it; "
        f"frames within {guard} of a cut are not used."
    )
    return _joined(stretches, notes)


def _guard(pictures: Sequence[Picture], options: SplitOptions) -> int:
    """Frames that a film needs to move on, as the recipe says or as the film shows."""
    from fingerspell.neighbours import near_lag

    return near_lag(pictures) if options.guard is None else options.guard


def _stretches(letter: list[Picture], options: SplitOptions, guard: int) -> _Division:
    """Film of one letter, cut into folds, with a gap at the cuts around the test and validation stretch."""
    parts = _parts(letter, options.folds)
    held_out, beside = parts[options.fold], parts[(options.fold + 1) % options.folds]
    others = [p for part in parts if part is not held_out and part is not beside for p in part]
    return _Division(held_out, _clear_of(others, [held_out, beside], guard), _clear_of(beside, [held_out], guard))


def _joined(divisions: Sequence[_Division], notes: Sequence[str]) -> _Division:
    """Division of all letters from those of each."""
    test, pool, validation = (
        list(chain.from_iterable(getattr(division, role) or [] for division in divisions))
        for role in ("test", "pool", "validation")
    )
    return _Division(test, pool, validation, tuple(notes))


def _bursts(
    pictures: Sequence[Picture], options: SplitOptions, rng: np.random.Generator, _groups: Mapping[str, str]
) -> _Division:
    from fingerspell.neighbours import bursts

    own, notes = _without_test_folder(pictures)
    numbers = dict(zip((picture.id for picture in own), bursts(own), strict=True))
    divisions, cut, untested = [], [], []
    for letter in _by_letter(own, _frame_order):
        members: defaultdict[int, list[Picture]] = defaultdict(list)
        for picture in letter:
            members[numbers[picture.id]].append(picture)
        if len(members) >= 3:
            divisions.append(_whole_bursts(list(members.values()), options, rng))
        else:
            stretches = _unlike_stretches(letter, options) if _is_film(letter) else None
            if stretches and stretches.pool and stretches.validation:
                cut.append(letter)
                divisions.append(stretches)
            else:
                untested.append(letter)
                divisions.append(_Division([], letter))
    if cut:
        notes.append(
            f"Fewer than 3 bursts of {_names(cut)}: cut into stretches of film instead, less the near-copies of test "
            "pictures."
        )
    if untested:
        notes.append(
            f"Fewer than 3 bursts of {_names(untested)}, which cannot be cut into stretches of film either: all of "
            "their pictures train, and nothing is measured on these letters."
        )
    notes.append(f"Whole bursts of near-copies are on one side; test is part {options.fold} of {options.folds}.")
    return _joined(divisions, notes)


def _unlike_stretches(letter: list[Picture], options: SplitOptions) -> _Division:
    """Film of one letter, cut into folds, less the pictures that are near-copies of test pictures."""
    from fingerspell.neighbours import has_near_copy

    cut = _stretches(letter, options, guard=0)
    pool, validation = (
        [p for p, near in zip(part, has_near_copy(part, cut.test), strict=True) if not near]
        for part in (cut.pool, cut.validation or [])
    )
    return _Division(cut.test, pool, validation)


def _is_film(letter: list[Picture]) -> bool:
    return all(picture.frame is not None for picture in letter)


def _names(letters: Sequence[list[Picture]]) -> str:
    return ", ".join(letter[0].label for letter in letters)


def _whole_bursts(bursts: list[list[Picture]], options: SplitOptions, rng: np.random.Generator) -> _Division:
    """Parts of about equal size, as far as the bursts of a letter allow: the largest burst first to the emptiest part.

    The parts come in reverse, so that a burst that is larger than a part is tested last.
    """
    parts: list[list[Picture]] = [[] for _ in range(min(options.folds, len(bursts)))]
    for burst in sorted((bursts[i] for i in rng.permutation(len(bursts))), key=len, reverse=True):
        min(parts, key=len).extend(burst)
    parts.reverse()
    held_out = options.fold % len(parts)
    beside = (held_out + 1) % len(parts)
    pool = [p for number, part in enumerate(parts) if number not in {held_out, beside} for p in part]
    return _Division(parts[held_out], pool, parts[beside])


def _groups(
    pictures: Sequence[Picture], options: SplitOptions, rng: np.random.Generator, groups: Mapping[str, str]
) -> _Division:
    if not groups:
        raise SplitError("split groups needs to know who is who: give --groups FILE.csv[:COLUMN].")
    names = sorted({groups[picture.id] for picture in pictures})
    if len(names) < 3:
        raise SplitError(
            f"split groups: found {len(names)} group(s) ({', '.join(names)}); expected at least 3, one each for train, "
            "validation and test."
        )
    parts = _parts([names[i] for i in rng.permutation(len(names))], min(options.folds, len(names)))
    _check_fold(options.fold, len(parts))
    held_out, beside = parts[options.fold], parts[(options.fold + 1) % len(parts)]
    test = [p for p in pictures if groups[p.id] in held_out]
    validation = [p for p in pictures if groups[p.id] in beside]
    pool = [p for p in pictures if groups[p.id] not in (*held_out, *beside)]
    note = f"Test holds the group(s) {', '.join(sorted(held_out))}, validation {', '.join(sorted(beside))}."
    return _Division(test, pool, validation, (note,))


def _leave_one_group_out(
    pictures: Sequence[Picture], options: SplitOptions, _rng: np.random.Generator, groups: Mapping[str, str]
) -> _Division:
    names = sorted({groups[picture.id] for picture in pictures}) if groups else []
    held_out = [name for name in names if options.held_out and is_within(name, options.held_out)]
    if not held_out or len(held_out) == len(names):
        given = f"--held-out {options.held_out}" if options.held_out else "no --held-out"
        raise SplitError(
            f"split leave-one-group-out: found the groups {', '.join(names) or 'none'} and {given}; "
            "expected the name of one of at least two groups, or of those above it. Name it, give several archives, or "
            "say who is who: --groups FILE.csv[:COLUMN]."
        )
    pool = [p for p in pictures if groups[p.id] not in held_out]
    test = [p for p in pictures if groups[p.id] in held_out]
    untaught = frozenset(p.label for p in test) - {p.label for p in pool}
    notes = [f"Test holds the group(s) {', '.join(held_out)}; all others train."]
    if untaught:
        notes.append(f"Nobody else shows {', '.join(sorted(untaught))}: nothing is measured on these letters.")
    measured = [p for p in test if p.label not in untaught]
    return _Division(measured, pool, notes=tuple(notes), by_bursts=True, untaught=untaught)


PROTOCOLS: dict[str, _Protocol] = {
    "first-per-class": _first_per_class,
    "folders": _folders,
    "random": _random,
    "blocks": _blocks,
    "bursts": _bursts,
    "groups": _groups,
    "leave-one-group-out": _leave_one_group_out,
}


def _without(pictures: Sequence[Picture], others: Sequence[Picture]) -> list[Picture]:
    known = {picture.id for picture in others}
    return [picture for picture in pictures if picture.id not in known]


def _fill(
    division: _Division, options: SplitOptions, groups: Mapping[str, str], rendered: Collection[str]
) -> tuple[list[Picture], list[Picture], list[str]]:
    """Training and validation pictures: a sample of the pool, and if the protocol set none aside, a share of it.

    Both are the same for every seed, so that another seed needs no features of other pictures or views. Rendered ones
    train beside these.
    """
    notes = []
    pool = measurable(division.pool, rendered)
    drawn = _without(division.pool, pool)
    if options.per_group:
        whole = len(pool)
        pool, drawn = (thinned(some, options.per_group, groups) for some in (pool, drawn))
        notes.append(
            f"At most {options.per_group:,} pictures of each letter and group train: {len(pool):,} of {whole:,}."
        )
    if drawn:
        notes.append(f"{len(drawn):,} rendered pictures train beside people's.")
    if options.sample and options.sample > len(pool):
        notes.append(f"The sample of {options.sample:,} is all of the {len(pool):,} pictures there are.")
    pool = _sample(pool, options.sample)
    if division.validation is not None:
        return pool + drawn, division.validation, notes
    share = _share_of_bursts if division.by_bursts else _share
    train, validation = [*drawn], []
    rng = np.random.default_rng(0)
    for letter in _by_letter(pool, lambda p: p.id):
        taken, rest = share(letter, options.validation, rng)
        validation += taken
        train += rest
    return train, validation, notes


def _share(letter: list[Picture], share: float, rng: np.random.Generator) -> tuple[list[Picture], list[Picture]]:
    """A share of a letter's pictures, drawn one by one, and the rest."""
    shuffled = [letter[i] for i in rng.permutation(len(letter))]
    count = max(1, round(share * len(letter)))
    return shuffled[:count], shuffled[count:]


def _share_of_bursts(
    letter: list[Picture], share: float, rng: np.random.Generator
) -> tuple[list[Picture], list[Picture]]:
    """About a share of a letter's pictures in whole bursts, as far as these fit, and the rest; of one burst none."""
    from fingerspell.neighbours import bursts

    numbers = bursts(letter)
    order = rng.permutation(np.unique(numbers))
    sizes = np.bincount(numbers)
    room, taken = max(1, round(share * len(letter))), set[int]()
    for burst in order:
        if sizes[burst] <= room:
            taken.add(int(burst))
            room -= sizes[burst]
    if not taken and len(sizes) > 1:
        taken = {int(sizes.argmin())}
    chosen = [int(number) in taken for number in numbers]
    return (
        [p for p, mine in zip(letter, chosen, strict=True) if mine],
        [p for p, mine in zip(letter, chosen, strict=True) if not mine],
    )


def thinned(pool: list[Picture], count: int, groups: Mapping[str, str]) -> list[Picture]:
    """At most so many pictures of each letter and group, evenly spread in frame order; who has no group is in one."""
    kept: list[Picture] = []
    for letter in _by_letter(pool, _frame_order):
        members: defaultdict[str, list[Picture]] = defaultdict(list)
        for picture in letter:
            members[groups.get(picture.id, "")].append(picture)
        for own in members.values():
            kept += evenly_spaced(own, count)
    return kept


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many of the items, in order."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def _sample(pool: list[Picture], size: int | None) -> list[Picture]:
    """Sample by digest of the id: random, the same for every seed, and each size within the next."""
    if size is None or size >= len(pool):
        return pool
    return sorted(pool, key=lambda p: hashlib.sha256(p.id.encode()).digest())[:size]


def _without_duplicates(
    train: list[Picture], validation: list[Picture], test: list[Picture], *, leak: bool
) -> tuple[list[Picture], list[Picture], int]:
    """Take contents of test out of validation and train, and contents of validation out of train."""
    in_test = set() if leak else {p.sha256 for p in test}
    clean_validation = [p for p in validation if p.sha256 not in in_test]
    taken = in_test | {p.sha256 for p in clean_validation}
    clean_train = [p for p in train if p.sha256 not in taken]
    return clean_train, clean_validation, len(train) + len(validation) - len(clean_train) - len(clean_validation)


def _check_fold(fold: int, folds: int) -> None:
    if fold >= folds:
        raise SplitError(f"fold {fold} of {folds}: they are numbered from 0 to {folds - 1}.")


def _check(split: Split, protocol: str, letters: set[str], roles: Sequence[Role] = ("validation", "test")) -> None:
    """Refuse a split in which a letter cannot be learnt or nothing can be measured."""
    untaught = sorted(letters - {p.label for p in split.train})
    if untaught:
        raise SplitError(
            f"split {protocol}: no training pictures are left for {', '.join(untaught)}: these letters have too few "
            "pictures, or copies of the test's alone, which do not train. Take fewer for the test set "
            "(--test-per-class or --guard, by the split), raise --sample, or choose another --split."
        )
    for role in roles:
        if not getattr(split, role):
            raise SplitError(
                f"split {protocol}: no {role} pictures are left. Choose another --split or a larger share."
            )


def _by_letter(pictures: Sequence[Picture], key: Callable[[Picture], object]) -> list[list[Picture]]:
    """Pictures of each letter, A to Z, sorted by ``key``."""
    letters: defaultdict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        letters[picture.label].append(picture)
    return [sorted(letters[label], key=key) for label in sorted(letters)]  # type: ignore[arg-type]


def _frame_order(picture: Picture) -> tuple[bool, int, str]:
    """Sort key: frame number, then name; pictures without a number come last."""
    return picture.frame is None, _frame(picture), picture.id


def _sorted_as(pictures: Sequence[Picture], some: list[Picture]) -> tuple[Picture, ...]:
    """Some of the pictures, in the order of all."""
    place = {picture.id: number for number, picture in enumerate(pictures)}
    return tuple(sorted(some, key=lambda picture: place[picture.id]))


def _parts(items: list[Item], count: int) -> list[list[Item]]:
    """Cut a list into ``count`` contiguous parts of nearly equal length."""
    cuts = [len(items) * i // count for i in range(count + 1)]
    return [items[start:end] for start, end in pairwise(cuts)]


def _clear_of(pictures: list[Picture], blocks: list[list[Picture]], guard: int) -> list[Picture]:
    """Pictures more than ``guard`` frames away from every block (each sorted by frame)."""
    spans = [(_frame(block[0]) - guard, _frame(block[-1]) + guard) for block in blocks if block]
    return [p for p in pictures if not any(low <= _frame(p) <= high for low, high in spans)]


def _frame(picture: Picture) -> int:
    """Frame number of a picture that is known to have one."""
    return picture.frame if picture.frame is not None else -1
