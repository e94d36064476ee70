"""The exported model gives the answers of training, on the real networks."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fingerspell import runs
from fingerspell.alphabet import LETTERS
from fingerspell.archive import open_archive
from fingerspell.backbones import EMBEDDED, load_backbone
from fingerspell.exporting import write_model
from fingerspell.graphs import backbone_graph
from fingerspell.heads import mlp_head, probabilities
from fingerspell.model import FORMAT, Card, load_model

Record = Callable[[str, object], None]

PICTURES = 500
TOLERANCE = 1e-3


def card(size: int) -> Card:
    score = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "pictures": 10}
    trained_on = {"archive": "none", "protocol": "none", "train": 0, "validation": 0}
    trained_on |= {"recipe": "none", "recipe_sha256": "", "pictures_sha256": ""}
    backbone = {"backbone": EMBEDDED, "weights": "0" * 64}
    return Card(
        FORMAT, "parity", LETTERS, size, "nearest", backbone, "mlp", trained_on, {"letters": score}, 1.0, 0.0, 0.05
    )


def test_embedded_backbone_with_a_head_sure_of_itself(tmp_path: Path, record_property: Record) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PICTURES, 8, 8, 3)).astype(np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)
    backbone = load_backbone(EMBEDDED, size=64)
    torch.manual_seed(0)
    head = mlp_head(backbone.dimension, (256, 128), len(LETTERS)).eval()
    with torch.no_grad():
        features = torch.cat([backbone.network(torch.from_numpy(part)) for part in np.array_split(pictures, 10)])
        state = head.state_dict()
        state["0.running_mean"].copy_(features.mean(0))
        state["0.running_var"].copy_(features.var(0))
        state["5.weight"].mul_(20)  # spreads the logits: an untrained head's even answers would hide differences
    ours = probabilities(head, features).numpy()
    write_model(tmp_path, backbone_graph(backbone, tmp_path), head, card(64))
    model = load_model(tmp_path)
    theirs = np.concatenate(
        [model.probabilities([{"pictures": pixels} for pixels in part]) for part in np.array_split(pictures, 10)]
    )
    difference = float(np.abs(ours - theirs).max())
    record_property(f"largest difference on {PICTURES} pictures, {EMBEDDED}", f"{difference:.2e}")
    assert ours.max(axis=1).mean() > 0.5
    assert difference < TOLERANCE


@pytest.mark.shared
def test_study_on_real_pictures_and_weights(shared: Path, tmp_path: Path, record_property: Record) -> None:
    """A small run of the real recipe: learns, and its ONNX agrees on every one of its 520 test pictures."""
    archive = shared / "data" / "asl_real.zip"
    overrides = {
        "features.weights": str(shared / "weights" / "vgg16_notop_fp16.safetensors"),
        "features.mirrored": False,
        "features.precision": "float32",
        "split.test_per_class": 20,
        "split.sample": 780,
        "head.mlp.epochs": 30,
    }
    run = runs.train(archive, recipe="real", overrides=overrides, out=tmp_path / "run")
    assert run.metrics["scores"]["letters"]["pictures"] == 520
    assert run.metrics["scores"]["letters"]["accuracy"] > 0.3  # 26 letters: chance is 0.04
    model = load_model(run.folder)
    with (run.folder / "predictions.csv").open(newline="") as file, open_archive(archive) as opened:
        rows = list(csv.DictReader(file))
        stream = list(model.stream(((row["id"], opened.read(row["id"])) for row in rows), lambda *_: None))
    differences = []
    for row, (name, answer) in zip(rows, stream, strict=True):
        assert name == row["id"]
        for letter in ("predicted", "runner_up"):
            told = float(row["probability" if letter == "predicted" else "runner_up_probability"])
            differences.append(abs(told - float(answer[model.card.labels.index(row[letter])])))
    record_property(f"largest difference on {len(rows)} real pictures, vgg16", f"{max(differences):.2e}")
    assert len(rows) >= PICTURES
    assert max(differences) < TOLERANCE
