"""What can go wrong, as one tree.

FingerspellError
├── ArchiveError      the archive cannot be opened or read
├── DatasetError      its pictures do not make a data set
├── SplitError        the data set cannot be split as asked
├── RecipeError       a recipe, or a value that overrides it, is wrong
├── BackboneError     a network or its weights cannot be had
├── TuningError       a network cannot be trained as asked
├── CacheError        the feature cache cannot be read or written
├── ModelError        a model folder cannot be read
├── RunError          a run's folder is in the way
├── MissingDependencyError  a part of the package is not installed
└── UnreadableError   one picture cannot be read; listed, and the work goes on without it

Every message says what is wrong, where, what was found against what was expected, and what to do.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# What reading a damaged file of ours raises: text, json, csv, or arrays in a zip.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(EOFError, RuntimeError, csv.Error, zipfile.BadZipFile, zlib.error),
)


class FingerspellError(Exception):
    """Any failure that the user can mend; the command line prints it and exits with 1."""


class ArchiveError(FingerspellError, OSError):
    """The archive cannot be opened or read."""


class DatasetError(FingerspellError, ValueError):
    """The pictures found do not make a data set of letters."""


class SplitError(FingerspellError, ValueError):
    """The data set cannot be split by the protocol asked for."""


class RecipeError(FingerspellError, ValueError):
    """A recipe, or a value that overrides one of its numbers, is wrong."""


class BackboneError(FingerspellError, ValueError):
    """A network or its weights cannot be had."""


class TuningError(FingerspellError, ArithmeticError):
    """A network cannot be trained as asked."""


class CacheError(FingerspellError, OSError):
    """The feature cache cannot be read or written."""


class ModelError(FingerspellError, ValueError):
    """A model folder is missing something or does not fit this version."""


class RunError(FingerspellError, FileExistsError):
    """The folder a command would write to is in the way."""


class MissingDependencyError(FingerspellError, ImportError):
    """A part of the package that this stage needs is not installed."""


class UnreadableError(FingerspellError, ValueError):
    """One picture cannot be read. Its message is the reason alone; whoever reads many lists it and goes on."""


def listed(names: Sequence[str], most: int) -> str:
    """Names in a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def not_installed(error: ModuleNotFoundError) -> MissingDependencyError:
    """Message for a package that only training needs and that is not there."""
    return MissingDependencyError(
        f"the package {error.name!r} is not installed. It belongs to the part that trains and evaluates: "
        "pip install 'fingerspell[train]', or in a checkout pip install '.[train]'"
    )
