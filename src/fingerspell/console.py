"""What people see on the screen: progress bars and tables. Bars and warnings go to stderr, results to stdout."""

from __future__ import annotations

import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fingerspell.streams import error_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fingerspell.inspection import Inspection, Leak
    from fingerspell.progress import Progress

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # what turns the direction of writing


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars with the time left, one a stage, for as long as the context lasts."""
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
    bars = Bars(*columns, console=_console(stderr=True))

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


def _console(*, stderr: bool = False) -> Console:
    """Screen that shows names as they are, whatever is in them, and obeys none."""
    from rich.console import Console

    class Screen(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str("\n".join(map(plain, text.split("\n"))), **options)

    return Screen(stderr=stderr, highlight=False, markup=False, emoji=False)


def warn(message: str) -> None:
    """One line on the error stream."""
    with error_stream:
        _console(stderr=True).print(message, soft_wrap=True)


def plain(name: str) -> str:
    """Name whose control characters are written out: a stranger's archive tells no screen what to do."""
    return "".join(c.encode("unicode_escape").decode() if _controls(c) else c for c in name)


def _controls(character: str) -> bool:
    """Whether it moves the cursor, ends the line, is half of a character, or turns the direction of writing."""
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(character) in _TURNS


def show_scores(metrics: Mapping[str, Any]) -> None:
    """Scores of a run as a table, and the remarks below it."""
    from rich.table import Table

    console = _console()
    console.print(f"{metrics['model']}: {metrics['measured_on']}")
    table = Table()
    for column in ("", "accuracy and 95%", "macro F1", "pictures", "bursts", "leak"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, score in metrics["scores"].items():
        low, high = score["accuracy_interval"]
        table.add_row(
            name.replace("_", " "),
            f"{score['accuracy']:.3f} {low:.3f}-{high:.3f}",
            f"{score['macro_f1']:.3f}",
            f"{score['pictures']:,}",
            f"{score['groups']:,}",
            f"{score['near_copies']:.1%}" if "near_copies" in score else "unknown",
        )
    console.print(table)
    console.print("bursts: sets of near-copies; leak: test pictures with a near-copy of their letter in training")
    for remark in (*metrics.get("split", {}).get("notes", ()), *metrics["remarks"]):
        console.print(f"- {remark}")


def show_comparison(result: Mapping[str, Any]) -> None:
    """Matrix of accuracies, models down, data sets across."""
    from rich.table import Table

    table = Table()
    table.add_column("accuracy on")
    for archive in result["archives"]:
        table.add_column(archive, justify="right")
    cells = {(cell["model"], cell["archive"]): cell for cell in result["cells"]}
    for model in result["models"]:
        table.add_row(model, *(_cell(cells[model, archive]) for archive in result["archives"]))
    _console().print(table, "* test pictures of the data set that the model was trained on", sep="\n")


def show_strangers(result: Mapping[str, Any]) -> None:
    """Scores on every group that was held out, with the mean below."""
    from rich.table import Table

    table = Table()
    for column in ("held out", "26", "95%", "24", "F1", "error", "named", "wrong"):
        table.add_column(column, justify="right" if column != "held out" else "left", no_wrap=column != "held out")
    rows = [row for top in result["groups"] for row in (top, *top["signers"])]
    for row in [*rows, {"group": "mean"} | result["mean"]]:
        score, static, sure = row["scores"]["letters"], row["scores"].get("static_letters"), row["on_strangers"]
        low, high = score["accuracy_interval"]
        table.add_row(
            row["group"],
            f"{score['accuracy']:.3f}",
            f"{low:.2f}-{high:.2f}",
            f"{static['accuracy']:.3f}" if static else "",
            f"{score['macro_f1']:.3f}",
            f"{sure['calibration_error']:.3f}",
            *("" if sure[name] is None else f"{sure[name]:.1%}" for name in ("named", "wrong_of_named")),
        )
    console = _console()
    console.print(table)
    console.print("26, 24: accuracy on all letters, and on those that are held still; F1: mean over letters")
    console.print("error (of calibration), named, wrong: with what was fitted on the other groups, strangers too")
    temperature, threshold = (result["calibration"][name] for name in ("temperature", "threshold"))
    sure = "no letter is ever sure enough" if threshold > 1 else f"a letter is named from {threshold:.2f}"
    console.print(f"All groups together: temperature {temperature:.2f}; {sure}, for the recipe's risk")


def _cell(cell: Mapping[str, Any]) -> str:
    low, high = cell["letters"]["accuracy_interval"]
    static = f"\n24: {cell['static_letters']['accuracy']:.3f}" if "static_letters" in cell else ""
    return f"{cell['letters']['accuracy']:.3f}{'*' if cell['own'] else ''}\n{low:.2f} to {high:.2f}{static}"


def show_explanation(result: Mapping[str, Any]) -> None:
    """Answers of the explained pictures, and how much of the evidence is in the hand."""
    console = _console()
    for row in result["pictures"]:
        inside = "" if row.get("inside") is None else f"  {row['inside']:.0%} of the evidence in the hand's box"
        console.print(f"{plain(row['id'])}: {row['letter']} {row['probability']:.3f}{inside}", soft_wrap=True)
    if "inside" in result:
        console.print(
            f"Median share of the evidence inside the hand's box: {result['inside']:.0%}; the box takes "
            f"{result['area']:.0%} of the picture, and would hold as much of evidence spread evenly."
        )


def show_inspection(inspection: Inspection) -> None:
    """Counts of a data set as a table, with everything that was left out below it."""
    from rich.table import Table

    console = _console()
    parts = sorted({part for counts in inspection.labels.values() for part in counts})
    console.print(f"{inspection.name}: {inspection.pictures:,} pictures")
    table = Table()
    table.add_column("class")
    for part in (*(part or "pictures" for part in parts), "bursts"):
        table.add_column(part, justify="right")
    for label, counts in inspection.labels.items():
        numbers = [f"{counts.get(part, 0):,}" for part in parts]
        table.add_row(label, *numbers, f"{inspection.bursts[label]:,}" if label in inspection.bursts else "")
    console.print(table)
    facts = {
        "Formats": _counts(inspection.formats),
        "Sizes": _counts(inspection.sizes),
        "Looks": _looks(inspection.looks),
        "Ignored files": _counts(inspection.ignored),
        "Left out": f"{len(inspection.problems)} pictures" if inspection.problems else "",
    }
    for name, fact in facts.items():
        if fact:
            console.print(f"{name}: {fact}")
    for picture, problem in list(inspection.problems.items())[:_SHOWN]:
        console.print(f"  {plain(picture)}: {problem}")
    if len(inspection.problems) > _SHOWN:
        console.print(f"  ... and {len(inspection.problems) - _SHOWN} more (--json or --csv show all)")

    console.print(_leaks(inspection.leaks))
    for finding in inspection.findings:
        console.print(plain(str(finding)))


def _leaks(leaks: Sequence[Leak]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("--split")
    for column in ("test pictures", "with a near-copy in training"):
        table.add_column(column, justify="right")
    for leak in leaks:
        share = "cannot be made" if leak.share is None else f"{leak.share:.1%}"
        table.add_row(leak.protocol, f"{leak.test:,}" if leak.test else "", share)
    return table


def _looks(looks: Mapping[str, Any]) -> str:
    if not looks:
        return ""
    medians = ", ".join(f"{name} {looks[name][1]:.3g}" for name in ("brightness", "contrast", "sharpness"))
    return f"{medians} (medians); {looks['backgrounds']:.1f} border colours (effective number)"


_SHOWN = 20  # problems listed on the screen


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:6]]
    return ", ".join(shown) + (f", and {len(counts) - 6} more" if len(counts) > 6 else "")
