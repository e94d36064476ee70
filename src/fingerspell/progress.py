"""How long work tells of itself: a callback, so that a stage never prints."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage's name, the steps done and the steps there are.
Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Say nothing."""
