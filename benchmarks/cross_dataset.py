"""The real recipe trained on every data set and measured on every other: a matrix with intervals.

    python benchmarks/cross_dataset.py FILM.zip STRANGERS.zip ... --groups SIGNERS.zip=signers.csv:signer
        --weights vgg16_notop.safetensors --out runs/cross-dataset

Runs are folders under --out and are not done again; the tables go to stdout as Markdown, the rest to OUT/matrix. An
archive with --groups is trained once with each group left out, and its row pools these folds.
"""

from __future__ import annotations

import argparse
import csv
import io
from itertools import product
from pathlib import Path
from typing import Any

from fingerspell import console, runs
from fingerspell.archive import open_archive
from fingerspell.compare import compare, entries_in

BACKBONES = ("vgg16", "efficientnet-lite0")
HEADS = ("mlp", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True, help="VGG16 without its top, safetensors")
    parser.add_argument("--groups", action="append", default=[], metavar="ARCHIVE=CSV:COLUMN")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    groups = dict(text.split("=", 1) for text in arguments.groups)
    rows = []
    for archive, backbone, head in product(arguments.archives, BACKBONES, HEADS):
        name = f"{archive.stem} {backbone} {head}"
        folder = arguments.out / name
        for fold, values in enumerate(divisions(archive, groups.get(archive.name))):
            train(
                archive, folder / f"fold-{fold}", values | features(backbone, arguments.weights) | {"head.kind": head}
            )
        rows.append(folder)
    entries = [entry for folder in rows if (entry := entries_in(folder))]
    with console.progress() as on_progress:
        result = compare(entries, arguments.archives, arguments.out / "matrix", on_progress=on_progress)
    print(table(result, "letters"))
    print(table(result, "static_letters"))


def divisions(archive: Path, groups: str | None) -> list[dict[str, Any]]:
    """How an archive is divided: one group out at a time, its own folders, or by bursts."""
    if groups is None:
        return [{"split.protocol": "bursts"}]
    file, _, column = groups.rpartition(":")
    with open_archive(archive) as opened:
        rows = list(csv.DictReader(io.StringIO(opened.read(file).decode("utf-8-sig"))))
    count = len({row[column] for row in rows})
    values = {"split.protocol": "groups", "split.groups": groups, "split.folds": max(3, count)}
    return [values | {"split.fold": fold} for fold in range(count)]


def features(backbone: str, weights: Path) -> dict[str, Any]:
    """VGG16 at the study's 90 pixels; the embedded network at 128."""
    if backbone == "vgg16":
        return {"features.backbone": backbone, "features.weights": str(weights)}
    return {"features.backbone": backbone, "features.size": 128, "features.interpolation": "bicubic"}


def train(archive: Path, folder: Path, values: dict[str, Any]) -> None:
    if (folder / "report.html").exists():
        return
    print(folder, flush=True)
    with console.progress() as on_progress:
        runs.train(archive, recipe="real", overrides=values, out=folder, on_progress=on_progress)


def table(result: dict[str, Any], key: str) -> str:
    cells = {(cell["model"], cell["archive"]): cell for cell in result["cells"]}
    archives = result["archives"]
    lines = [f"| {key.replace('_', ' ')} | " + " | ".join(archives) + " |", "|---" * (1 + len(archives)) + "|"]
    lines += [
        f"| {model} | " + " | ".join(shown(cells[model, archive], key) for archive in archives) + " |"
        for model in result["models"]
    ]
    return "\n".join(lines) + "\n"


def shown(cell: dict[str, Any], key: str) -> str:
    low, high = cell[key]["accuracy_interval"]
    text = f"{cell[key]['accuracy']:.2f} [{low:.2f}, {high:.2f}]"
    return f"**{text}**" if cell["own"] else text


if __name__ == "__main__":
    main()
