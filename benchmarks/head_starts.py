"""Many random starts of the study's head, ours beside Keras's on the same features: is one as good as the other.

    python benchmarks/head_starts.py ARCHIVE --weights vgg16_notop.safetensors --keras KERAS/bin/python --sample 3000

Both are trained on the features of one `fingerspell train`, each epoch in a random order and a view drawn at random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fingerspell import cache, console
from fingerspell.archive import open_archive
from fingerspell.backbones import load_backbone
from fingerspell.dataset import scan
from fingerspell.engines import open_engine
from fingerspell.features import extract, open_store
from fingerspell.heads import probabilities
from fingerspell.images import VIEWS
from fingerspell.recipes import load_recipe, override
from fingerspell.splits import split_pictures
from fingerspell.training import Examples, train_mlp

Sets = dict[str, Examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="VGG16 without its top, safetensors")
    parser.add_argument("--keras", required=True, help="python of the environment of reference_keras.txt")
    parser.add_argument("--sample", type=int, default=3000)
    parser.add_argument("--starts", type=int, default=10)
    arguments = parser.parse_args()
    sets = features(arguments)
    print("| head | starts | mean | standard deviation | lowest | highest |\n|---|---|---|---|---|---|")
    print(row("ours", [ours(sets, seed) for seed in range(arguments.starts)]))
    print(row("Keras", keras(sets, arguments)))


def features(arguments: argparse.Namespace) -> Sets:
    """Examples of each role of the real recipe."""
    recipe = override(load_recipe("real"), {"split.sample": arguments.sample})
    backbone = load_backbone("vgg16", weights=arguments.weights, size=90, interpolation="nearest")
    engine = open_engine(backbone, cache.graphs_folder())
    with open_archive(arguments.archive) as archive, console.progress() as on_progress:
        dataset = scan(archive, memory=cache.scans_folder(), on_progress=on_progress)
        split = split_pictures(dataset.letters(), recipe.split, seed=0)
        with open_store(cache.features_folder(), engine) as store:
            sets = {}
            for role in ("train", "validation", "test"):
                pictures, views = getattr(split, role), VIEWS if role == "train" else VIEWS[:1]
                extract(archive, pictures, engine, store, views=views, on_progress=on_progress)
                targets = np.array([split.labels.index(picture.label) for picture in pictures], np.int64)
                sets[role] = Examples(store.load(pictures, views), targets)
    return sets


def ours(sets: Sets, seed: int) -> float:
    """Test accuracy from one start."""
    options = load_recipe("real").head.mlp
    trained = train_mlp(sets["train"], sets["validation"], classes=26, options=options, seed=seed)
    answers = probabilities(trained.head, torch.from_numpy(sets["test"].features[:, 0])).argmax(dim=1).numpy()
    return float((answers == sets["test"].targets).mean())


def keras(sets: Sets, arguments: argparse.Namespace) -> list[float]:
    """Test accuracies from as many starts in Keras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npz"
        arrays: dict[str, Any] = {f"{role}_features": examples.features for role, examples in sets.items()}
        arrays |= {f"{role}_targets": examples.targets for role, examples in sets.items()}
        np.savez(path, **arrays)
        script = str(Path(__file__).with_name("head_starts_keras.py"))
        command = [arguments.keras, script, str(path), str(arguments.starts)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, check=True)
    accuracies: list[float] = json.loads(done.stdout.splitlines()[-1])
    return accuracies


def row(name: str, accuracies: list[float]) -> str:
    values = np.array(accuracies)
    cells = (values.mean(), values.std(ddof=1), values.min(), values.max())
    return f"| {name} | {len(values)} | {' | '.join(f'{cell:.3f}' for cell in cells)} |"


if __name__ == "__main__":
    main()
