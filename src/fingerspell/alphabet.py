"""The letters of the manual alphabet, and how folder names stand for them."""

from __future__ import annotations

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

# J and Z are drawn in the air: a still picture shows one moment of it, mostly the start.
MOVING_LETTERS = ("J", "Z")
STATIC_LETTERS = tuple(letter for letter in LETTERS if letter not in MOVING_LETTERS)

# Folders of the public sets that hold no letter: the editing signs of the Kaggle "ASL Alphabet", and the empty
# backgrounds of it (`nothing`) and of Lexset's set (`Blank`). Canonical spelling as the sets ship them.
NON_LETTERS = ("del", "nothing", "space", "Blank")

_LABELS = {name.casefold(): name for name in (*LETTERS, *NON_LETTERS)}


def label_of(name: str) -> str | None:
    """Label that a folder name stands for, in canonical spelling (``"a"`` is ``"A"``), or None if unknown."""
    return _LABELS.get(name.strip().casefold())


def is_letter(label: str) -> bool:
    """Whether a label is one of the 26 letters."""
    return label in LETTERS
