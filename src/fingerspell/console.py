"""What people see on the screen: progress bars and tables. Bars and warnings go to stderr, results to stdout."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fingerspell.inspection import Inspection
    from fingerspell.progress import Progress


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars with the time left, one a stage, for as long as the context lasts."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<19}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("spent"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, Any] = {}
    bars = Bars(*columns, console=Console(stderr=True))

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            bars.start()
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()


def warn(message: str) -> None:
    """One line on the error stream."""
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """Scores of a run as a table, and the remarks below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{metrics['model']}: {metrics['measured_on']}", markup=False)
    table = Table()
    for column in ("", "accuracy", "95% interval", "macro F1", "pictures"):
        table.add_column(column, justify="left" if not column else "right")
    for name, score in metrics["scores"].items():
        low, high = score["accuracy_interval"]
        table.add_row(
            name.replace("_", " "),
            f"{score['accuracy']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{score['macro_f1']:.3f}",
            f"{score['pictures']:,}",
        )
    console.print(table)
    for remark in (*metrics.get("split", {}).get("notes", ()), *metrics["remarks"]):
        console.print(f"- {remark}", markup=False)


def show_inspection(inspection: Inspection) -> None:
    """Counts of a data set as a table, with everything that was left out below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    parts = sorted({part for counts in inspection.labels.values() for part in counts})
    console.print(f"{inspection.name}: {inspection.pictures:,} pictures", markup=False)
    table = Table()
    table.add_column("class")
    for part in parts:
        table.add_column(part or "pictures", justify="right")
    for label, counts in inspection.labels.items():
        table.add_row(label, *(f"{counts.get(part, 0):,}" for part in parts))
    console.print(table)
    facts = {
        "Letters without a picture": ", ".join(inspection.missing_letters),
        "Formats": _counts(inspection.formats),
        "Sizes": _counts(inspection.sizes),
        "Equal bytes": f"{inspection.duplicates} pictures" if inspection.duplicates else "",
        "Unknown folders": _counts(inspection.unknown_folders),
        "Ignored files": _counts(inspection.ignored),
        "Left out": f"{len(inspection.problems)} pictures" if inspection.problems else "",
    }
    for name, fact in facts.items():
        if fact:
            console.print(f"{name}: {fact}", markup=False)
    for picture, problem in list(inspection.problems.items())[:_SHOWN]:
        console.print(f"  {picture}: {problem}", markup=False)
    if len(inspection.problems) > _SHOWN:
        console.print(f"  ... and {len(inspection.problems) - _SHOWN} more (--json or --csv show all)", markup=False)


_SHOWN = 20  # problems listed on the screen


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:6]]
    return ", ".join(shown) + (f", and {len(counts) - 6} more" if len(counts) > 6 else "")
