"""Are rendered hands hands, do real people's eyes read them, what do they teach? The figures of docs/rendering.md.

    fingerspell render hands --train 150 --test 40 --size 320 --seed 1
    python benchmarks/rendered_hands.py hands asl_real.zip signers_k.zip ... --hand-model hand_landmarker.task

Of a set without test pictures only what it teaches is asked. Trains what is missing in --out, and takes over what is
there. Needs fingerspell[train,hands].
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import cache, hands, images, runs
from fingerspell.alphabet import LETTERS, STATIC_LETTERS
from fingerspell.archive import open_archive
from fingerspell.compare import _answers
from fingerspell.console import progress
from fingerspell.dataset import scan
from fingerspell.engines import HandsEngine
from fingerspell.features import extract, open_store
from fingerspell.images import VIEWS
from fingerspell.model import load_model
from fingerspell.rendering.generate import PARTS, TABLE
from fingerspell.rendering.view import HAND_LENGTH
from fingerspell.splits import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fingerspell.archive import Archive
    from fingerspell.dataset import Dataset, Picture
    from fingerspell.progress import Progress

_POINTS = {"features.backbone": "hand-landmarks", "split.protocol": "bursts"}
_A_LETTER = 100  # pictures of each letter that are looked at, at most: a film tells no more by all of its frames
_WRIST, _MIDDLE = 0, 9  # the palm's length: from the wrist to where the middle finger begins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", type=Path)
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--hand-model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/rendered-hands"))
    given = parser.parse_args()
    detector = hands.open_detector(given.hand_model)
    given.out.mkdir(parents=True, exist_ok=True)
    with progress() as on_progress, (given.out / "figures.txt").open("w") as file:
        lines = [taught(given.rendered, given.archives, detector, given.out, on_progress)]
        if (given.rendered / PARTS[1]).is_dir():
            lines.insert(0, read_by_real_eyes(given.rendered, given.archives, detector, given.out, on_progress))
            lines.insert(0, detected(given.rendered, detector))
        for line in chain.from_iterable(lines):
            print(line, flush=True)
            print(line, file=file, flush=True)


def detected(rendered: Path, detector: hands.Detector) -> Iterator[str]:
    """Share of the test part's letters with a hand for the detector as it comes, and how far its points are off."""
    rows = list(csv.DictReader((rendered / TABLE).read_text("utf-8").splitlines()))
    rows = [row for row in rows if row["label"] in LETTERS and row["path"].startswith("Test")]
    found, apart = Counter[str](), []
    for row in rows:
        pixels = images.decode((rendered / row["path"]).read_bytes()).pixels
        seen = detector.look(pixels)
        if not seen[hands.FOUND] or seen[hands.STEP] > 0:  # the ladder's first step is the detector as it comes
            continue
        found[row["label"]] += 1
        truth = np.array([[float(row[f"seen{point}{axis}"]) for axis in "xy"] for point in range(hands.POINTS)])
        points = seen[hands.PICTURE].reshape(hands.POINTS, 3)[:, :2]
        apart.append(np.linalg.norm(points - truth, axis=1) / palm_of(row))
    shown = Counter(row["label"] for row in rows)
    worst = min(shown, key=lambda letter: found[letter] / shown[letter])
    least = f"least in {worst}, {found[worst] / shown[worst]:.2f}"
    yield f"the detector finds a hand in {found.total() / len(rows):.3f} of {len(rows)} letters; {least}"
    yield f"its points lie {np.mean(apart):.3f} palms from the joints on average, {np.median(apart):.3f} in the median"


def palm_of(row: dict[str, str]) -> float:
    """Length of the palm in shares of the picture, as if it faced the camera."""
    wrist, middle = (np.array([float(row[f"mm{point}{axis}"]) for axis in "xyz"]) for point in (_WRIST, _MIDDLE))
    return float(np.linalg.norm(wrist - middle)) * float(row["scale"]) / HAND_LENGTH


def read_by_real_eyes(
    rendered: Path, archives: list[Path], detector: hands.Detector, out: Path, on_progress: Progress
) -> Iterator[str]:
    """A classifier of real people's points, on rendered letters."""
    values = _POINTS | {"split.per_group": 300, "features.hand_model": str(detector.file)}
    model = trained([*archives], values, out / "real-points", on_progress)
    yield "classifier of real people's points, on rendered letters, where a hand was found:"
    yield from scored(model, rendered / PARTS[1], detector, on_progress, letters=True)


def taught(
    rendered: Path, archives: list[Path], detector: hands.Detector, out: Path, on_progress: Progress
) -> Iterator[str]:
    """Classifiers of rendered hands, on real people: points alone, and the reader with and without points beside it."""
    file = {"features.hand_model": str(detector.file)}
    for name, recipe, values in (
        ("rendered-points", "real", _POINTS | file),
        ("rendered-reader", "reader", file),
        ("rendered-fusion", "reader", file | {"head.kind": "fusion"}),
    ):
        model = trained([rendered], values, out / name, on_progress, recipe)
        yield f"{name}:"
        for archive in archives:
            yield from scored(model, archive, detector, on_progress)


def trained(
    sources: list[Path], values: Mapping[str, object], out: Path, on_progress: Progress, recipe: str = "real"
) -> Path:
    """Folder of a run, trained if it is not there."""
    if not (out / "metrics.json").exists():
        runs.train(sources, recipe=recipe, overrides=dict(values), out=out, on_progress=on_progress)
    return out


def scored(
    run: Path, source: Path, detector: hands.Detector, on_progress: Progress, *, letters: bool = False
) -> list[str]:
    """Accuracy of a run's model on a data set: of all pictures, and of those in which a hand was found."""
    with open_archive(source) as archive:
        dataset = thinned(scan(archive, memory=cache.scans_folder(), on_progress=on_progress))
        model = load_model(run, hand_model=detector.file)
        numbers = dict.fromkeys((picture.id for picture in dataset.pictures), 0)
        answered = _answers({run / "model": model}, archive, dataset, numbers, on_progress)
        found = np.isin(answered.ids, list(found_in(archive, dataset, detector, on_progress)))
    right, static = answered.true == answered.predicted, np.isin(answered.true, STATIC_LETTERS)
    everywhere = f"all {right.mean():.3f}, 24 static {right[static].mean():.3f}"
    where = f"{right[found].mean():.3f}, 24 static {right[found & static].mean():.3f}"
    name = source.parent.name if source.name in PARTS else source.stem
    lines = [f"  {name:12} {everywhere}; where a hand was found ({found.mean():.3f}) {where}"]
    if letters:
        of = {letter: right[found & (answered.true == letter)].mean() for letter in LETTERS}
        lines.append("  " + " ".join(f"{letter} {value:.2f}" for letter, value in of.items()))
    return lines


def thinned(dataset: Dataset) -> Dataset:
    """Data set with at most ``_A_LETTER`` pictures of each letter, evenly spread."""
    own: dict[str, list[Picture]] = {letter: [] for letter in LETTERS}
    for picture in dataset.letters():
        own[picture.label].append(picture)
    kept = []
    for pictures in own.values():
        kept += evenly_spaced(pictures, _A_LETTER)
    return replace(dataset, pictures=tuple(kept))


def found_in(archive: Archive, dataset: Dataset, detector: hands.Detector, on_progress: Progress) -> set[str]:
    """Ids of the pictures in which some try of the ladder finds a hand."""
    engine, pictures = HandsEngine(detector), dataset.pictures
    with open_store(cache.features_folder(), engine) as store:
        extract(archive, pictures, engine, store, views=VIEWS[:1], on_progress=on_progress)
        rows = store.load(pictures, VIEWS[:1])[:, 0]
    return {picture.id for picture, row in zip(pictures, rows, strict=True) if row[hands.FOUND]}


if __name__ == "__main__":
    main()
