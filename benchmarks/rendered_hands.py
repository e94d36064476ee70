"""Are rendered hands hands, do real people's eyes read them, what do they teach? The figures of docs/rendering.md.

    fingerspell render hands --train 220 --test 40 --size 224 --seed 1
    python benchmarks/rendered_hands.py hands asl_real.zip signers_k.zip ... --hand-model hand_landmarker.task

Trains what is missing in --out, and takes over what is there. Needs fingerspell[train,hands].
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import cache, hands, images, runs
from fingerspell.alphabet import LETTERS, STATIC_LETTERS
from fingerspell.archive import open_archive
from fingerspell.console import progress
from fingerspell.dataset import scan
from fingerspell.engines import HandsEngine
from fingerspell.features import extract, open_store
from fingerspell.images import VIEWS
from fingerspell.model import load_model
from fingerspell.rendering.generate import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fingerspell.progress import Progress

_POINTS = {"features.backbone": "hand-landmarks", "split.protocol": "bursts"}
_WRIST, _MIDDLE = 0, 9  # the palm's length: from the wrist to where the middle finger begins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", type=Path)
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--hand-model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/rendered-hands"))
    given = parser.parse_args()
    detector = hands.open_detector(given.hand_model)
    with progress() as on_progress:
        lines = [
            *detected(given.rendered, detector),
            *read_by_real_eyes(given.rendered, given.archives, detector, given.out, on_progress),
            *taught(given.rendered, given.archives, detector, given.out, on_progress),
        ]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "figures.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def detected(rendered: Path, detector: hands.Detector) -> list[str]:
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
    return [
        f"the detector finds a hand in {found.total() / len(rows):.3f} of {len(rows)} letters; {least}",
        f"its points lie {np.mean(apart):.3f} palms from the joints on average, {np.median(apart):.3f} in the median",
    ]


def palm_of(row: dict[str, str]) -> float:
    """Length of the palm in shares of the picture, as if it faced the camera."""
    wrist, middle = (np.array([float(row[f"mm{point}{axis}"]) for axis in "xyz"]) for point in (_WRIST, _MIDDLE))
    return float(np.linalg.norm(wrist - middle)) * float(row["scale"]) / 185.0


def read_by_real_eyes(
    rendered: Path, archives: list[Path], detector: hands.Detector, out: Path, on_progress: Progress
) -> list[str]:
    """A classifier of real people's points, on rendered letters."""
    values = _POINTS | {"split.per_group": 300, "features.hand_model": str(detector.file)}
    model = trained([*archives], values, out / "real-points", on_progress)
    return [
        "classifier of real people's points, on rendered letters, where a hand was found:",
        *scored(model, rendered, detector, out, on_progress, letters=True),
    ]


def taught(
    rendered: Path, archives: list[Path], detector: hands.Detector, out: Path, on_progress: Progress
) -> list[str]:
    """Classifiers of rendered hands, on real people: points alone, and the reader with and without points beside it."""
    lines = []
    file = {"features.hand_model": str(detector.file)}
    for name, recipe, values in (
        ("rendered-points", None, _POINTS | file),
        ("rendered-reader", "reader", file),
        ("rendered-fusion", "reader", file | {"head.kind": "fusion"}),
    ):
        model = trained([rendered], values, out / name, on_progress, recipe)
        lines.append(f"{name}:")
        for archive in archives:
            lines += scored(model, archive, detector, out, on_progress)
    return lines


def trained(
    sources: list[Path], values: Mapping[str, object], out: Path, on_progress: Progress, recipe: str | None = "real"
) -> Path:
    """Folder of a run, trained if it is not there."""
    if not (out / "metrics.json").exists():
        runs.train(sources, recipe=recipe or "real", overrides=dict(values), out=out, on_progress=on_progress)
    return out


def scored(
    run: Path, source: Path, detector: hands.Detector, out: Path, on_progress: Progress, *, letters: bool = False
) -> list[str]:
    """Accuracy of a run's model on a data set: of all pictures, and of those in which a hand was found."""
    folder = out / f"{run.name}-on-{source.stem}"
    if not (folder / "metrics.json").exists():
        model = load_model(run, hand_model=detector.file)
        runs.evaluate(model, source, out=folder, overwrite=True, on_progress=on_progress)
    answers = list(csv.DictReader((folder / "predictions.csv").read_text("utf-8").splitlines()))
    found = found_in(source, detector, on_progress)
    right = {answer["id"]: answer["label"] == answer["predicted"] for answer in answers}
    label = {answer["id"]: answer["label"] for answer in answers}

    def share(ids: Iterable[str]) -> float:
        return float(np.mean([right[i] for i in ids] or [np.nan]))

    static = [i for i in right if label[i] in STATIC_LETTERS]
    seen = [i for i in right if i in found]
    everywhere = f"all {share(right):.3f}, 24 static {share(static):.3f}"
    where = f"{share(seen):.3f}, 24 static {share(i for i in static if i in found):.3f}"
    lines = [f"  {source.stem:12} {everywhere}; where a hand was found ({len(seen) / len(right):.3f}) {where}"]
    if letters:
        of = {letter: share(i for i in seen if label[i] == letter) for letter in LETTERS}
        lines.append("  " + " ".join(f"{letter} {value:.2f}" for letter, value in of.items()))
    return lines


def found_in(source: Path, detector: hands.Detector, on_progress: Progress) -> set[str]:
    """Ids of the pictures in which some try of the ladder finds a hand."""
    engine = HandsEngine(detector)
    with open_archive(source) as archive, open_store(cache.features_folder(), engine) as store:
        pictures = scan(archive, memory=cache.scans_folder(), on_progress=on_progress).letters()
        extract(archive, pictures, engine, store, views=VIEWS[:1], on_progress=on_progress)
        rows = store.load(pictures, VIEWS[:1])[:, 0]
    return {picture.id for picture, row in zip(pictures, rows, strict=True) if row[hands.FOUND]}


if __name__ == "__main__":
    main()
