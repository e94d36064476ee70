"""What near-copies across the split are worth: one recipe under every split of one archive.

    python benchmarks/leakage.py ARCHIVE --weights vgg16_notop.safetensors --out runs/leakage

Each run is a folder under --out and is not done again if it is there; the table goes to stdout as Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fingerspell import console, runs

PROTOCOLS = ("first-per-class", "random", "blocks", "bursts")
HEADS = ("mlp", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="VGG16 without its top, safetensors")
    parser.add_argument("--folds", type=int, default=3, help="of each split that has folds; the first so many")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    columns = ["split", "fold", "head", "near-copies", "26 letters", "24 static letters", "calibration error", "bursts"]
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for protocol in PROTOCOLS:
        for fold in range(1 if protocol == "first-per-class" else arguments.folds):
            for head in HEADS:
                print(
                    f"| {protocol} | {fold} | {head} | {row(measured(arguments, protocol, fold, head))} |", flush=True
                )


def measured(arguments: argparse.Namespace, protocol: str, fold: int, head: str) -> dict[str, Any]:
    """Content of ``metrics.json`` of a run, made if it is not there."""
    folder = arguments.out / f"{protocol}-{fold}-{head}"
    if not (folder / "report.html").exists():
        values: dict[str, Any] = {"split.protocol": protocol, "head.kind": head, "split.sample": 26000}
        values |= {"features.backbone": "vgg16", "features.weights": str(arguments.weights)}
        values |= {"split.fold": fold} if protocol != "first-per-class" else {}
        with console.progress() as on_progress:
            runs.train(arguments.archive, recipe="real", overrides=values, out=folder, on_progress=on_progress)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def row(metrics: dict[str, Any]) -> str:
    scores = metrics["scores"]
    cells = [f"{scores['letters']['near_copies']:.1%}"]
    for score in (scores["letters"], scores["static_letters"]):
        low, high = score["accuracy_interval"]
        cells.append(f"{score['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
    return " | ".join([*cells, f"{metrics['calibration']['error']:.3f}", f"{scores['letters']['groups']:,}"])


if __name__ == "__main__":
    main()
