"""What is in a data set, counted: pictures a class and part, problems, and what was passed over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fingerspell.alphabet import LETTERS, NON_LETTERS, is_letter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fingerspell.dataset import Dataset

_NAMED = 5  # unknown folders named in a sentence


@dataclass(frozen=True)
class Inspection:
    """Counts of a data set.

    Attributes
    ----------
    name : str
        File name of the archive.
    pictures : int
        All pictures, bad ones and non-letters included.
    labels : mapping
        Label to part ("train", "test", "validation" or "") to good pictures; letters first.
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
    """

    name: str
    pictures: int
    labels: Mapping[str, Mapping[str, int]]
    missing_letters: tuple[str, ...]
    problems: Mapping[str, str]
    unknown_folders: Mapping[str, int]
    ignored: Mapping[str, int]
    sizes: Mapping[str, int]
    formats: Mapping[str, int]
    duplicates: int


def inspect(dataset: Dataset) -> Inspection:
    """Count a data set."""
    good = [picture for picture in dataset.pictures if not picture.problem]
    labels = {
        label: dict(Counter(p.part for p in good if p.label == label))
        for label in (*LETTERS, *NON_LETTERS)
        if any(p.label == label for p in good)
    }
    return Inspection(
        name=dataset.name,
        pictures=len(dataset.pictures),
        labels=labels,
        missing_letters=tuple(letter for letter in LETTERS if letter not in labels),
        problems={p.id: p.problem for p in dataset.pictures if p.problem},
        unknown_folders=dataset.unknown_folders,
        ignored=dataset.ignored,
        sizes=dict(Counter(f"{p.width}x{p.height}" for p in good).most_common()),
        formats=dict(Counter(p.format for p in good).most_common()),
        duplicates=len(good) - len({p.sha256 for p in good}),
    )


def notes(dataset: Dataset) -> list[str]:
    """Plain sentences about what a run on this data set leaves out; none where nothing is."""
    unknown = [f"{folder} ({count:,})" for folder, count in dataset.unknown_folders.items()]
    bad = [p for p in dataset.pictures if p.problem and is_letter(p.label)]
    found = []
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        names = ", ".join(unknown[:_NAMED])
        found.append(f"Left out: folders that are neither letters nor known non-letters: {names}{more}.")
    if bad:
        found.append(
            f"Left out: {len(bad):,} pictures of letters that cannot be read, such as {bad[0].id} ({bad[0].problem})."
        )
    return found
