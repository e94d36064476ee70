"""Small costs, each beside the limit that it should keep: start, prediction, scan, resumption, heads, memory.

    python benchmarks/small_costs.py ARCHIVE [--model runs/NAME]

Prints a Markdown table. Everything is measured as it is used: commands as fresh processes from outside, functions in a
process of their own. Without --model one is trained on a few drawn hands first. Scratch files go to a temporary folder
(three times the archive's size) and the user's own cache is not touched.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fingerspell.archive import open_archive
from fingerspell.dataset import sort_out
from speed import alone, fingerspell, measure, say, table, warm_up_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fingerspell.training import Examples

MANY = 1000  # pictures of the long prediction
TRAINED_ON, DIMENSION = 26_000, 512  # the study's sample, VGG16's features
ALL = 10**9  # a sample of so many takes every picture there is


@dataclass(frozen=True)
class Scratch:
    """What the measurements share."""

    archive: Path
    folder: Path
    model: Path
    runs: int

    def environment(self, cache: str) -> dict[str, str]:
        """Environment of a command with a cache folder of its own."""
        return {"FINGERSPELL_CACHE": str(self.folder / "caches" / cache)}

    def log(self, name: str) -> Path:
        """File for the output of a command."""
        return self.folder / "logs" / f"{name}.log"


@dataclass(frozen=True)
class Cost:
    """One line of the table."""

    what: str
    command: str
    values: list[float]
    limit: float
    unit: str

    def row(self) -> tuple[str, ...]:
        """Its cells."""
        middle = statistics.median(self.values)
        measured = f"{middle:.3g} {self.unit}"
        if len(self.values) > 1:
            measured += f" ({min(self.values):.3g} to {max(self.values):.3g})"
        limit = f"{self.limit:g} {self.unit}"
        return self.what, self.command, measured, limit, "yes" if middle <= self.limit else "**no**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--model", type=Path, help="folder of a run")
    parser.add_argument("--runs", type=int, default=5, help="of everything but the memory of whole runs")
    parser.add_argument("--copies", type=int, default=3, help="of each picture in the larger archive")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(given.archive.resolve(), Path(folder), given.model or Path(folder) / "model", given.runs)
        if not given.model:
            say("training a model on drawn hands")
            train_model(scratch)
        rows = [cost.row() for cost in costs(scratch, given.copies)]
        print(table("what | command | measured: median (least to most) | limit | kept", rows))
        print(f"\nMedians of {given.runs}; memory of whole runs is measured once. Model: {model_text(scratch)}.")
    print("(*) Features drawn at random around a mean of each class, of the shape that such a run has.")


def costs(scratch: Scratch, copies: int) -> Iterator[Cost]:
    """Every line of the table, as it is measured."""
    warm_up_ours(scratch.folder / "logs")
    for measurement in (start, prediction, further_pictures, scan, inspection, resumption, mlp_head, linear_head):
        say(measurement.__name__.replace("_", " "))
        yield measurement(scratch)
    say("memory of a whole run")
    yield memory(scratch, scratch.archive, "the archive")
    larger = scratch.folder / "larger.zip"
    repeat(scratch.archive, larger, copies)
    say(f"memory of a whole run on an archive {copies} times as large")
    yield memory(scratch, larger, f"an archive {copies} times as large")


def train_model(scratch: Scratch) -> None:
    """Small model, as the demo's but on fewer pictures."""
    pictures = scratch.folder / "rendered-hands"
    measure(fingerspell("render", pictures, "--train", 10, "--test", 5, "--size", 128), scratch.log("render"))
    options = ("--backbone", "efficientnet-lite0", "--size", 128, "--epochs", 5, "--out", scratch.model)
    command = fingerspell("train", pictures, "--recipe", "synthetic", *options)
    measure(command, scratch.log("train-model"), scratch.environment("model"))


# ----------------------------------------------------------------------------------------------------------- commands


def start(scratch: Scratch) -> Cost:
    seconds = [measure(fingerspell("--help"), scratch.log("help")).seconds for _ in range(scratch.runs)]
    return Cost("the command line says what it can do", "`fingerspell --help`", seconds, 0.3, "s")


def prediction(scratch: Scratch) -> Cost:
    one = some_pictures(scratch, 1)
    return Cost("one picture", "`fingerspell predict MODEL hand.jpg`", predicting(scratch, one), 1.5, "s")


def further_pictures(scratch: Scratch) -> Cost:
    """Difference of a long prediction and a short one, a picture."""
    many = some_pictures(scratch, MANY)
    more = len(list(many.iterdir())) - 1
    pairs = zip(predicting(scratch, many), predicting(scratch, some_pictures(scratch, 1)), strict=True)
    each = [1000 * (long - short) / more for long, short in pairs]
    return Cost(f"each further picture (of {more:,})", "`fingerspell predict MODEL FOLDER`", each, 5, "ms")


def predicting(scratch: Scratch, pictures: Path) -> list[float]:
    command = fingerspell("predict", scratch.model, pictures)
    return [measure(command, scratch.log("predict")).seconds for _ in range(scratch.runs)]


def scan(scratch: Scratch) -> Cost:
    seconds = alone(scan_times, scratch)
    what = f"every picture of the archive read and decoded ({len(picture_names(scratch.archive)):,})"
    return Cost(what, "`open_archive`, `dataset.scan`", seconds, 20, "s")


def scan_times(scratch: Scratch) -> list[float]:
    from fingerspell import dataset

    def once() -> None:
        with open_archive(scratch.archive) as archive:
            dataset.scan(archive)

    return timed(once, scratch.runs)


def inspection(scratch: Scratch) -> Cost:
    command = fingerspell("inspect", scratch.archive)
    seconds = [
        measure(command, scratch.log("inspect"), scratch.environment(f"scan-{run}")).seconds
        for run in range(scratch.runs)
    ]
    return Cost("near-copies, bursts, looks, leaks", "`fingerspell inspect ARCHIVE`, empty cache", seconds, 60, "s")


def memory(scratch: Scratch, archive: Path, what: str) -> Cost:
    """Peak memory of a run on all pictures, with the cheapest backbone that there are real weights for."""
    options = ("--recipe", "real", "--split", "random", "--sample", ALL, "--backbone", "efficientnet-lite0")
    out = scratch.folder / f"run-{archive.stem}"
    command = fingerspell("train", archive, *options, "--size", 32, "--out", out)
    measured = measure(command, scratch.log(out.name), scratch.environment(out.name))
    shown = "`fingerspell train ARCHIVE --split random --backbone efficientnet-lite0 --size 32`, all pictures"
    return Cost(f"peak memory of a whole run on {what}", shown, [measured.peak_mib / 1024], 2, "GiB")


# ---------------------------------------------------------------------------------------------------------- functions


def resumption(scratch: Scratch) -> Cost:
    seconds = alone(resume, scratch)
    return Cost("a finished extraction is resumed", "`features.extract`, all pictures, two views", seconds, 5, "s")


def resume(scratch: Scratch) -> list[float]:
    """Seconds of an extraction that finds every vector there; random ones will do."""
    import numpy as np

    from fingerspell.backbones import EMBEDDED, load_backbone
    from fingerspell.dataset import scan
    from fingerspell.engines import open_engine
    from fingerspell.features import extract, open_store
    from fingerspell.images import VIEWS

    folder = scratch.folder / "resumption"
    engine = open_engine(load_backbone(EMBEDDED, size=32), folder, engine="torch")
    with open_archive(scratch.archive) as archive, open_store(folder, engine) as store:
        pictures = scan(archive).letters()
        keys = [(picture.sha256, view) for picture in pictures for view in VIEWS]
        store.add(keys, np.random.default_rng(0).random((len(keys), engine.dimension), np.float32))
        return timed(lambda: extract(archive, pictures, engine, store), scratch.runs)


def mlp_head(scratch: Scratch) -> Cost:
    what = f"the study's head on features of {TRAINED_ON:,} pictures, 5 epochs (*)"
    return Cost(what, "`training.train_mlp`", alone(fit_mlp, scratch.runs), 10, "s")


def linear_head(scratch: Scratch) -> Cost:
    what = f"the linear head on the same features, all {len(strengths())} strengths (*)"
    return Cost(what, "`training.train_linear`", alone(fit_linear, scratch.runs), 20, "s")


def fit_mlp(runs: int) -> list[float]:
    from fingerspell.recipes import MlpOptions
    from fingerspell.training import train_mlp

    train, validation = learnable()
    options = replace(MlpOptions(), epochs=5)
    return timed(lambda: train_mlp(train, validation, classes=26, options=options, seed=0), runs)


def fit_linear(runs: int) -> list[float]:
    from fingerspell.recipes import LinearOptions
    from fingerspell.training import train_linear

    train, validation = learnable()
    return timed(lambda: train_linear(train, validation, classes=26, options=LinearOptions()), runs)


def strengths() -> tuple[float, ...]:
    from fingerspell.recipes import LinearOptions

    return LinearOptions().strengths


def learnable() -> tuple[Examples, Examples]:
    """Features that a run on so many pictures has, four fifths in two views to train, drawn at random.

    Around a mean of each class: noise that the dimensions share, as those of a network do (solvers feel it), and noise
    of their own.
    """
    import numpy as np

    from fingerspell.training import Examples

    rng = np.random.default_rng(0)
    means = 0.15 * rng.standard_normal((26, DIMENSION))
    shared = rng.standard_normal((64, DIMENSION))

    def draw(pictures: int, views: int) -> Examples:
        targets = rng.integers(26, size=pictures)
        common = rng.standard_normal((pictures, views, 64)) @ shared / 4
        own = rng.standard_normal((pictures, views, DIMENSION))
        return Examples((means[targets][:, None] + common + own).astype(np.float32), targets)

    train = TRAINED_ON * 4 // 5
    return draw(train, 2), draw(TRAINED_ON - train, 1)


def timed(work: Callable[[], object], runs: int) -> list[float]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


# ----------------------------------------------------------------------------------------------------------- pictures


def picture_names(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [member.name for member in sort_out(archive.members)[0]]


def some_pictures(scratch: Scratch, count: int) -> Path:
    """Folder with so many pictures of the archive, or the picture itself if it is one; made once."""
    folder = scratch.folder / f"{count}-pictures"
    names = picture_names(scratch.archive)[:count]
    paths = [folder / f"{number}{PurePosixPath(name).suffix}" for number, name in enumerate(names)]
    if not folder.exists():
        folder.mkdir()
        with open_archive(scratch.archive) as archive:
            for path, name in zip(paths, names, strict=True):
                path.write_bytes(archive.read(name))
    return folder if count > 1 else paths[0]


def repeat(source: Path, target: Path, copies: int) -> None:
    """Archive with every picture of another several times, each with bytes of its own.

    Decoders stop at a picture's end marker: bytes behind it change the digest and nothing else.
    """
    with open_archive(source) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for member in sort_out(archive.members)[0]:
            path, data = PurePosixPath(member.name), archive.read(member.name)
            for copy in range(copies):
                file.writestr(str(path.with_name(f"copy{copy}-{path.name}")), data + bytes([0, copy]))


def model_text(scratch: Scratch) -> str:
    """What ran the predictions."""
    from fingerspell.model import load_model

    card = load_model(scratch.model).card
    return f"{card.backbone['backbone']} at {card.size}x{card.size}"


if __name__ == "__main__":
    main()
