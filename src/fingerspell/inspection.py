"""What is in a data set, and what of it a user should know before training: counts, looks, near-copies, findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerspell import splits
from fingerspell.alphabet import LETTERS, MOVING_LETTERS, NON_LETTERS, is_letter
from fingerspell.errors import SplitError, listed
from fingerspell.looks import Looks, effective_number
from fingerspell.neighbours import NEAR, bursts, has_near_copy
from fingerspell.recipes import SplitOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fingerspell.dataset import Dataset, Picture

_NAMED = 5  # things named in a sentence, before "and so many more"
_SHOWN = 24  # pictures on a contact sheet

# From where on a measure is a finding. Grey values are 0 to 255.
_LEAK = 0.05  # of the test pictures have a near-copy in training: as many as could move a score by a few points
_INDEPENDENT = 0.5  # bursts over pictures: below it, most pictures repeat another
_UNBALANCED = 3  # pictures of the most frequent letter over those of the rarest
_FEW_BURSTS = 10  # of a letter: fewer cannot be divided into train, validation and test that mean something
_SOME = 0.01  # of the pictures
_DARK, _BRIGHT = 40, 215  # mean grey value
_FLAT = 15  # standard deviation of the grey values
_BLURRED = 0.01  # variance of the Laplacian over that of the grey values, at 96 pixels
_SMALL = 64  # pixels of the shorter side
_BACKGROUNDS = 5  # effective number of border colours
_PROTOCOLS = tuple(name for name in splits.PROTOCOLS if name != "leave-one-group-out")  # which needs to know who


@dataclass(frozen=True)
class Finding:
    """Something that a user should know.

    Attributes
    ----------
    code : str
        Stable: "FS003".
    name : str
        A few words.
    text : str
        What was found, why it matters, what to do.
    pictures : tuple of str
        Ids of some pictures that show it.
    """

    code: str
    name: str
    text: str
    pictures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {self.name}: {self.text}"


@dataclass(frozen=True)
class Leak:
    """Near-copies across one split protocol.

    Attributes
    ----------
    protocol : str
    share : float or None
        Of the test pictures, those that have a near-copy of the same letter in training; None if the set cannot be
        divided so.
    test : int
        Test pictures.
    note : str
        Why not, or what the protocol did.
    """

    protocol: str
    share: float | None
    test: int
    note: str


@dataclass(frozen=True)
class Inspection:
    """Counts of a data set, and what is to be known of it.

    Attributes
    ----------
    name : str
        File name of the archive.
    pictures : int
        All pictures, bad ones and non-letters included.
    labels : mapping
        Label to part ("train", "test", "validation" or "") to good pictures; letters first.
    bursts : mapping
        Letter to bursts of near-copies: the effective number of its pictures.
    missing_letters : tuple of str
        Letters without a good picture.
    problems : mapping
        Picture id to the reason why it is left out.
    unknown_folders : mapping
        Folder to pictures, for folders that are neither letters nor known non-letters.
    ignored : mapping
        Kind of file that is no picture to how many.
    sizes, formats : mapping
        "WIDTHxHEIGHT" and format name to good pictures, the most frequent first.
    duplicates : int
        Good pictures whose bytes an earlier one has too.
    looks : mapping
        "brightness", "contrast" and "sharpness" to their 5%, 50% and 95% quantiles, and "backgrounds" to the effective
        number of border colours, over the pictures of letters.
    leaks : tuple of Leak
        One for each split protocol.
    findings : tuple of Finding
        In the order of their codes.
    """

    name: str
    pictures: int
    labels: Mapping[str, Mapping[str, int]]
    bursts: Mapping[str, int]
    missing_letters: tuple[str, ...]
    problems: Mapping[str, str]
    unknown_folders: Mapping[str, int]
    ignored: Mapping[str, int]
    sizes: Mapping[str, int]
    formats: Mapping[str, int]
    duplicates: int
    looks: Mapping[str, Any]
    leaks: tuple[Leak, ...]
    findings: tuple[Finding, ...]


def inspect(dataset: Dataset, looks: Looks, groups: Mapping[str, str] | None = None) -> Inspection:
    """Count a data set, divide it in every way, and say what is to be known.

    Parameters
    ----------
    dataset
        As ``scan`` gives it.
    looks
        Of its good pictures of letters, in their order.
    groups
        Picture id to signer, for the protocol ``groups``.
    """
    good = [picture for picture in dataset.pictures if not picture.problem]
    letters = [picture for picture in good if is_letter(picture.label)]
    labels = {
        label: dict(Counter(p.part for p in good if p.label == label))
        for label in (*LETTERS, *NON_LETTERS)
        if any(p.label == label for p in good)
    }
    numbers = bursts(letters)
    found = {
        label: len(set(numbers[[p.label == label for p in letters]].tolist())) for label in labels if is_letter(label)
    }
    leaks = tuple(_leak(letters, protocol, groups) for protocol in _PROTOCOLS if letters)
    return Inspection(
        name=dataset.name,
        pictures=len(dataset.pictures),
        labels=labels,
        bursts=found,
        missing_letters=tuple(letter for letter in LETTERS if letter not in labels),
        problems={p.id: p.problem for p in dataset.pictures if p.problem},
        unknown_folders=dataset.unknown_folders,
        ignored=dataset.ignored,
        sizes=dict(Counter(f"{p.width}x{p.height}" for p in good).most_common()),
        formats=dict(Counter(p.format for p in good).most_common()),
        duplicates=len(good) - len({p.sha256 for p in good}),
        looks=_summary(looks) if letters else {},
        leaks=leaks,
        findings=tuple(_findings(dataset, letters, numbers, looks, leaks)),
    )


def notes(dataset: Dataset) -> list[str]:
    """Plain sentences about what a run on this data set leaves out; none where nothing is."""
    return [str(finding) for finding in (_unreadable(dataset), _unknown_folders(dataset)) if finding]


def _leak(letters: Sequence[Picture], protocol: Any, groups: Mapping[str, str] | None) -> Leak:
    try:
        split = splits.split_pictures(letters, SplitOptions(protocol=protocol), seed=0, groups=groups)
    except SplitError as error:
        return Leak(protocol, None, 0, str(error))
    share = float(has_near_copy(split.test, split.train).mean())
    return Leak(protocol, share, len(split.test), " ".join(split.notes))


def _summary(looks: Looks) -> dict[str, Any]:
    measures = {name: getattr(looks, name) for name in ("brightness", "contrast", "sharpness")}
    quantiles = {name: [float(q) for q in np.quantile(v, [0.05, 0.5, 0.95])] for name, v in measures.items()}
    return quantiles | {"backgrounds": effective_number(looks.background)}


# The findings, in the order of their codes


def _findings(
    dataset: Dataset, letters: Sequence[Picture], numbers: NDArray[np.int64], looks: Looks, leaks: Sequence[Leak]
) -> Iterable[Finding]:
    found = [_unreadable(dataset)]
    if letters:
        found += [_duplicates(letters), _leaks(leaks), _bursts(letters, numbers), _two_letters(letters)]
        found += [_missing(letters), _unbalanced(letters)]
    found += [_unknown_folders(dataset)]
    if letters:
        found += [_few_bursts(letters, numbers), *_looks(letters, looks), _small(letters), _one_background(looks)]
    found += [_non_letters(dataset), _moving(letters)]
    return [finding for finding in found if finding]


def _unreadable(dataset: Dataset) -> Finding | None:
    bad = [p for p in dataset.pictures if p.problem and is_letter(p.label)]
    if not bad:
        return None
    return Finding(
        "FS001",
        "unreadable pictures",
        f"{len(bad):,} pictures of letters cannot be read and are left out, such as {bad[0].id} ({bad[0].problem}). "
        "Fetch the archive again, or repair these files.",
    )


def _duplicates(letters: Sequence[Picture]) -> Finding | None:
    first: dict[str, Picture] = {}
    copies = [p for p in letters if first.setdefault(p.sha256, p) is not p]
    if not copies:
        return None
    return Finding(
        "FS002",
        "exact duplicates",
        f"{len(copies):,} pictures have the bytes of another one. They count twice in training; every split keeps them "
        "on one side.",
        tuple(p.id for p in copies[:_SHOWN]),
    )


def _leaks(leaks: Sequence[Leak]) -> Finding | None:
    bad = [leak for leak in leaks if leak.share is not None and leak.share > _LEAK]
    clean = [leak.protocol for leak in leaks if leak.share is not None and leak.share <= _LEAK]
    if not bad:
        return None
    listed = ", ".join(f"{leak.share:.0%} of test pictures of --split {leak.protocol}" for leak in bad)
    advice = f"Use --split {' or '.join(clean)}" if clean else "No split of this set is clean: measure on another set"
    return Finding(
        "FS003",
        "near-copies across the split",
        f"{listed} have a near-copy of the same letter in training (at most {NEAR} of 64 bits of the difference hash "
        f"apart), so that such a score is one of memory. {advice}.",
    )


def _bursts(letters: Sequence[Picture], numbers: NDArray[np.int64]) -> Finding | None:
    count = int(numbers.max()) + 1
    if count > _INDEPENDENT * len(letters):
        return None
    largest = np.bincount(numbers).argmax()
    shown = splits.evenly_spaced(np.flatnonzero(numbers == largest).tolist(), _SHOWN)
    return Finding(
        "FS004",
        "bursts",
        f"{len(letters):,} pictures of letters are {count:,} bursts of near-copies: that is the effective number of "
        "independent pictures. Intervals of scores resample bursts; more pictures of the same bursts teach little.",
        tuple(letters[row].id for row in shown),
    )


def _two_letters(letters: Sequence[Picture]) -> Finding | None:
    first: dict[str, Picture] = {}
    pairs = [(first[p.sha256], p) for p in letters if first.setdefault(p.sha256, p).label != p.label]
    if not pairs:
        return None
    one, other = pairs[0]
    return Finding(
        "FS005",
        "one picture, two letters",
        f"{len(pairs):,} pictures have the bytes of a picture of another letter, such as {other.id} and {one.id}. One "
        "of the two labels is wrong: correct it.",
        tuple(p.id for pair in pairs[: _SHOWN // 2] for p in pair),
    )


def _missing(letters: Sequence[Picture]) -> Finding | None:
    there = {p.label for p in letters}
    missing = [letter for letter in LETTERS if letter not in there]
    if not missing:
        return None
    return Finding(
        "FS006",
        "missing letters",
        f"There are no pictures of {', '.join(missing)}. A model of this set will call them something else.",
    )


def _unbalanced(letters: Sequence[Picture]) -> Finding | None:
    counts = Counter(p.label for p in letters).most_common()
    (most, high), (least, low) = counts[0], counts[-1]
    if high <= _UNBALANCED * low:
        return None
    return Finding(
        "FS007",
        "unbalanced letters",
        f"{most} has {high:,} pictures and {least} {low:,}. Rare letters are learnt worse, and hidden by the accuracy: "
        "read the macro F1 and the table of letters.",
    )


def _unknown_folders(dataset: Dataset) -> Finding | None:
    unknown = [f"{folder} ({count:,})" for folder, count in dataset.unknown_folders.items()]
    if not unknown:
        return None
    return Finding(
        "FS008",
        "unknown folders",
        f"Folders that are neither letters nor known non-letters are left out: {listed(unknown, _NAMED)}. Rename them "
        "if they hold letters.",
    )


def _few_bursts(letters: Sequence[Picture], numbers: NDArray[np.int64]) -> Finding | None:
    counts = {
        label: len({n for n, p in zip(numbers.tolist(), letters, strict=True) if p.label == label}) for label in LETTERS
    }
    few = [f"{label} ({count})" for label, count in counts.items() if 0 < count < _FEW_BURSTS]
    if not few:
        return None
    return Finding(
        "FS009",
        "few independent pictures",
        f"Fewer than {_FEW_BURSTS} bursts of {listed(few, _NAMED)}. A score of such a letter hangs on one or two "
        "moments: take more pictures, at other times and places.",
    )


def _looks(letters: Sequence[Picture], looks: Looks) -> Iterable[Finding | None]:
    yield _look(letters, looks.brightness < _DARK, "FS010", "dark pictures", "Models see little in them")
    yield _look(letters, looks.brightness > _BRIGHT, "FS011", "overexposed pictures", "Hands may be washed out")
    yield _look(letters, looks.contrast < _FLAT, "FS012", "flat pictures", "Hand and background hardly differ")
    yield _look(letters, looks.sharpness < _BLURRED, "FS013", "blurred pictures", "Fingers cannot be told apart")


def _look(letters: Sequence[Picture], which: NDArray[np.bool_], code: str, name: str, why: str) -> Finding | None:
    rows = np.flatnonzero(which)
    if len(rows) <= _SOME * len(letters):
        return None
    return Finding(
        code,
        name,
        f"{len(rows):,} of {len(letters):,} pictures ({len(rows) / len(letters):.0%}). {why}: look at them, and leave "
        "out those that you could not read yourself.",
        tuple(letters[row].id for row in splits.evenly_spaced(rows.tolist(), _SHOWN)),
    )


def _small(letters: Sequence[Picture]) -> Finding | None:
    small = [p for p in letters if min(p.width, p.height) < _SMALL]
    if len(small) <= _SOME * len(letters):
        return None
    return Finding(
        "FS014",
        "small pictures",
        f"{len(small):,} pictures have a side of less than {_SMALL} pixels. Enlarging them for the network adds "
        "nothing: fetch the originals if there are any.",
        tuple(p.id for p in small[:_SHOWN]),
    )


def _one_background(looks: Looks) -> Finding | None:
    count = effective_number(looks.background)
    if count >= _BACKGROUNDS:
        return None
    return Finding(
        "FS015",
        "few backgrounds",
        f"The borders of the pictures have {count:.1f} colours (effective number; of 64). A model may learn the room "
        "with the hand, and fail in another: test on other people's pictures, and add pictures from elsewhere.",
    )


def _non_letters(dataset: Dataset) -> Finding | None:
    counts = Counter(p.label for p in dataset.pictures if not p.problem and p.label in NON_LETTERS)
    if not counts:
        return None
    counted = [f"{label} ({count:,})" for label, count in counts.items()]
    return Finding(
        "FS016",
        "pictures of no letter",
        f"{listed(counted, _NAMED)}. They test whether a model knows when to say nothing; only a reader learns from "
        "others of them.",
    )


def _moving(letters: Sequence[Picture]) -> Finding | None:
    moving = sorted({p.label for p in letters} & set(MOVING_LETTERS))
    if not moving:
        return None
    return Finding(
        "FS017",
        "letters that move",
        f"{' and '.join(moving)} are drawn in the air, and a still shows only how they begin. Judge by the score of "
        "the 24 static letters.",
    )
