"""The study's real recipe under every split, and with the study's own input: what its 0.94 is made of.

    python benchmarks/what_the_score_is_made_of.py ARCHIVE --weights vgg16_notop.safetensors --out runs/made-of

Prints the tables of docs/reference-study.md. Runs that are finished are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from fingerspell import console, runs
from fingerspell.metrics import paired_difference

VARIANTS: dict[str, dict[str, Any]] = {
    "first-per-class, 5 epochs": {},
    "first-per-class, 5 epochs, seed 1": {"seed": 1},
    "first-per-class, 5 epochs, seed 2": {"seed": 2},
    "first-per-class, 20 epochs": {"head.mlp.epochs": 20},
    "first-per-class, linear head": {"head.kind": "linear"},
    "first-per-class with the reference leak": {"split.reference_leak": True},
    "random": {"split.protocol": "random"},
    **{f"blocks, fold {fold}": {"split.protocol": "blocks", "split.fold": fold} for fold in range(5)},
    "first-per-class, 5 epochs, input unit": {"features.input_scale": "unit"},
    "first-per-class, 20 epochs, input unit": {"features.input_scale": "unit", "head.mlp.epochs": 20},
}
PAIRS = [("first-per-class, 5 epochs", "first-per-class, 5 epochs, input unit")]
PAIRS += [("first-per-class, 20 epochs", "first-per-class, 20 epochs, input unit")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/made-of"))
    arguments = parser.parse_args()
    print("| run | test pictures | 26 letters | 24 static letters | mirrored, 26 (260 pictures) | seconds |")
    print("|---|---|---|---|---|---|")
    for name, values in VARIANTS.items():
        folder = run_once(arguments.archive, arguments.weights, arguments.out / slug(name), values)
        print(f"| {name} {row(folder)}", flush=True)
    print("\n| same test pictures | difference in accuracy, 95% interval |\n|---|---|")
    for one, other in PAIRS:
        right, other_right = (correct(arguments.out / slug(name)) for name in (one, other))
        low, high = paired_difference(right, other_right, np.arange(len(right)))
        print(f"| {one}: native less unit | {low:+.3f} to {high:+.3f} |")


def run_once(archive: Path, weights: Path, folder: Path, values: dict[str, Any]) -> Path:
    if not (folder / "report.html").exists():
        overrides = {"features.backbone": "vgg16", "features.weights": str(weights), "split.sample": 26000} | values
        overrides |= {"features.precision": "float32"}  # the study's; what less costs is in docs/performance.md
        with console.progress() as on_progress:
            runs.train(archive, recipe="real", overrides=overrides, out=folder, on_progress=on_progress)
    return folder


def row(folder: Path) -> str:
    metrics = json.loads((folder / "metrics.json").read_text())
    scores, mirrored = metrics["scores"], metrics["conditions"]["mirrored"]["letters"]
    seconds = sum(json.loads((folder / "timing.json").read_text())["stages"].values())
    cells = [shown(score) for score in (scores["letters"], scores["static_letters"], mirrored)]
    return f"| {scores['letters']['pictures']:,} | {' | '.join(cells)} | {seconds:.0f} |"


def shown(score: dict[str, Any]) -> str:
    low, high = score["accuracy_interval"]
    return f"{score['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def correct(folder: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    with (folder / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    return np.array([row["label"] == row["predicted"] for row in rows])


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
