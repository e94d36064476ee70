from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conftest import noisy_picture
from fingerspell import cache, finetuning, runs
from fingerspell.archive import open_archive
from fingerspell.backbones import EMBEDDED, Backbone, Network, Preprocessing
from fingerspell.dataset import scan
from fingerspell.engines import TorchEngine
from fingerspell.errors import CacheError, TuningError
from fingerspell.finetuning import fine_tune, fit
from fingerspell.images import decode, resize
from fingerspell.recipes import FineTuningOptions
from fingerspell.testing import FakeDetector
from small_training import OPTIONS, Points, cross_entropy, noisy_loss, small_network

HERE = Path(__file__).parent


def tiny_backbone() -> Backbone:
    """Backbone with convolutions and batch norm, which has everything to learn."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
    )
    return Backbone.of("tiny", Network(layers, Preprocessing(16, "nearest", "rgb", (127.5,) * 3, (127.5,) * 3)))


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_fit_learns_tells_of_it_and_leaves_the_mean_at_rest(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    network, points = small_network(), Points()
    before = cross_entropy(network, (points.points, points.targets)).item()
    fitted = fit(network, points, cross_entropy, OPTIONS, tmp_path, on_progress=lambda *now: told.append(now))
    assert told == [("Fine-tuning", step, 8) for step in range(1, 9)]
    after = cross_entropy(fitted, (points.points, points.targets)).item()
    assert after < 0.8 * before
    assert not fitted.training
    assert not equal(fitted, network)  # the mean of the way, not its end
    rows = [[*chain(*points.asked[start : start + 4])] for start in (0, 4)]
    assert [sorted(epoch) for epoch in rows] == [list(range(64))] * 2
    assert rows[0] != rows[1]


def test_fit_repeats_itself_and_another_seed_goes_another_way(tmp_path: Path) -> None:
    one, same, other = (
        fit(small_network(), Points(), noisy_loss, OPTIONS, tmp_path / str(n), seed=seed)
        for n, seed in enumerate((0, 0, 1))
    )
    assert equal(one, same)
    assert not equal(one, other)


def test_sixteen_bits_learn_as_well_in_other_steps(tmp_path: Path) -> None:
    points, fitted = Points(), {}
    for precision in ("float32", "bfloat16"):
        options = dataclasses.replace(OPTIONS, precision=precision)
        fitted[precision] = fit(small_network(), points, cross_entropy, options, tmp_path / precision)
    exact, fast = (cross_entropy(network, (points.points, points.targets)).item() for network in fitted.values())
    assert fast == pytest.approx(exact, rel=0.02)
    assert not equal(*fitted.values())
    assert {value.dtype for value in fitted["bfloat16"].state_dict().values()} == {torch.float32}


def test_shares_show_rare_examples_more_often(tmp_path: Path) -> None:
    points = Points()
    shares = np.where(np.arange(64) < 8, 4.0, 1.0)
    fit(small_network(), points, cross_entropy, OPTIONS, tmp_path, shares=shares)
    counts = np.bincount([*chain(*points.asked)], minlength=64)
    assert counts.sum() == 128
    expected = 2 * 64 * shares / shares.sum()
    assert np.abs(counts - expected).max() < 2
    order = finetuning._order(50, np.ones(50), [0, 0])
    assert sorted(order.tolist()) == list(range(50))  # equal shares: each once


def test_layers_near_the_pictures_learn_slowly_and_heads_fully() -> None:
    import timm

    network = nn.Sequential(timm.create_model("tf_efficientnet_lite0", num_classes=0), nn.Linear(1280, 26))
    groups = finetuning._groups(network, 0.5)
    scale = {id(p): group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert set(scale) == {id(p) for p in network.parameters()}
    names = dict(network.named_parameters())
    stem, middle, head = (
        scale[id(names[n])] for n in ("0.conv_stem.weight", "0.blocks.3.0.conv_pw.weight", "1.weight")
    )
    assert stem < middle < head == 1.0
    assert decay[id(names["1.bias"])] == decay[id(names["0.bn1.weight"])] == 0 < decay[id(names["1.weight"])]


def test_networks_without_batch_norm_learn_more_slowly() -> None:
    assert finetuning._own_rate(small_network()) < finetuning._own_rate(tiny_backbone().network)


def test_groups_of_few_pictures_are_shown_more_often(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[np.ndarray[Any, Any]] = []

    def stop(*_: Any, shares: np.ndarray[Any, Any], **__: Any) -> nn.Module:
        given.append(shares)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "fit", stop)
    with open_archive(letters_zip) as archive:
        pictures = scan(archive).letters()
        groups = {p.id: "rare" if p.frame == 7 else "common" for p in pictures}
        with pytest.raises(KeyboardInterrupt):
            fine_tune(TorchEngine(tiny_backbone()), archive, pictures, OPTIONS, tmp_path, groups=groups)
    rare = np.array([groups[p.id] == "rare" for p in pictures])
    assert given[0][rare].min() / given[0][~rare].max() == pytest.approx(39**0.5)


def test_folder_that_cannot_be_written_is_told(letters_zip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_archive(letters_zip) as archive:
        pictures = scan(archive).letters()
        with pytest.raises(CacheError, match="MiB of free disk space"):
            fine_tune(TorchEngine(tiny_backbone()), archive, pictures, OPTIONS, tmp_path / "file")


def test_loss_that_is_no_number_stops_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"step 1 of 8: the loss became nan.*--tune-rate"):
        fit(small_network(), Points(), lambda n, b: cross_entropy(n, b) * float("nan"), OPTIONS, tmp_path)


def test_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(TuningError, match="found 3 examples"):
        finetuning._Batches(3, OPTIONS, 4, 0, None)


KILLED = """
import sys, os, signal
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import small_training as t
from fingerspell import finetuning
finetuning._CHECKPOINT_S = 0.0
def stop(stage, done, total):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
finetuning.fit(t.small_network(), t.Points(), t.noisy_loss, t.OPTIONS, Path(sys.argv[1]), on_progress=stop)
"""


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = fit(small_network(), Points(), noisy_loss, OPTIONS, tmp_path / "undisturbed")
    program = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(HERE)]
    killed = subprocess.run(program, check=False)  # with as many threads as here, on which last bits depend
    assert killed.returncode == -signal.SIGKILL
    steps: list[int] = []
    resumed = fit(
        small_network(),
        Points(),
        noisy_loss,
        OPTIONS,
        tmp_path / "killed",
        on_progress=lambda _s, n, _t: steps.append(n),
    )
    assert steps == [6, 7, 8]
    assert equal(undisturbed, resumed)


def test_checkpoint_of_another_training_or_a_damaged_one_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "_CHECKPOINT_S", 0.0)
    fit(small_network(), Points(), cross_entropy, OPTIONS, tmp_path)
    file = tmp_path / "training.safetensors"
    assert first_step(tmp_path, seed=1) == 1
    file.write_bytes(file.read_bytes()[:100])
    assert first_step(tmp_path, seed=0) == 1


def first_step(folder: Path, seed: int) -> int:
    steps: list[int] = []
    fit(
        *(small_network(), Points(), cross_entropy, OPTIONS, folder),
        seed=seed,
        on_progress=lambda _stage, done, _total: steps.append(done),
    )
    return steps[0]


TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import small_training as t
from fingerspell import finetuning
from safetensors.torch import save_file
network = finetuning.fit(t.small_network(), t.Points(), t.cross_entropy, t.OPTIONS, Path(sys.argv[1]))
import os
save_file(network.state_dict(), Path(sys.argv[1]) / f"rank{os.environ['RANK']}.safetensors")
import torch.distributed
assert torch.distributed.get_world_size() == 2
torch.distributed.destroy_process_group()
"""


def in_two_processes(*program: str, **environment: str) -> None:
    """Run a program of Python in two processes that share a training, as torchrun starts it."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | environment
    subprocess.run([*launcher, *program], env=os.environ | settings, check=True, timeout=600)


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    (tmp_path / "together.py").write_text(TOGETHER)
    in_two_processes(str(tmp_path / "together.py"), str(tmp_path), str(HERE))
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    alone = fit(small_network(), Points(), cross_entropy, OPTIONS, tmp_path / "alone").state_dict()
    assert first.keys() == second.keys() == alone.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key])
        torch.testing.assert_close(value, alone[key], rtol=1e-3, atol=1e-4)


def accuracy(backbone: Backbone, letters: str, numbers: range) -> float:
    """Share of new pictures whose nearest mean of training features is their letter's."""
    engine = TorchEngine(backbone)

    def features(letter: str, rows: range) -> Any:
        pictures = [resize(decode(noisy_picture(letter, n)).pixels, 16, "nearest") for n in rows]
        return np.concatenate([vectors for _, vectors in engine.stream((n, p) for n, p in enumerate(pictures))])

    means = np.stack([features(letter, range(20)).mean(axis=0) for letter in letters])
    rights = [
        np.linalg.norm(features(letter, numbers)[:, None] - means, axis=2).argmin(axis=1) == row
        for row, letter in enumerate(letters)
    ]
    return float(np.mean(rights))


def test_fine_tuned_backbone_sees_letters_remembers_and_reads_training_pictures_alone(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FineTuningOptions(enabled=True, epochs=6, batch_size=20, learning_rate=0.02)
    start = tiny_backbone()
    before = {key: value.clone() for key, value in start.network.state_dict().items()}
    with open_archive(letters_zip) as archive:
        pictures = [p for p in scan(archive).letters() if (p.frame or 0) < 20]
        read: list[str] = []
        original = archive.read

        def read_and_tell(name: str) -> bytes:
            read.append(name)
            return original(name)

        monkeypatch.setattr(archive, "read", read_and_tell)
        tuned = fine_tune(TorchEngine(start), archive, pictures, options, tmp_path)
        assert sorted(read) == sorted(p.id for p in pictures)  # each once, and no other
        assert all(torch.equal(before[key], value) for key, value in start.network.state_dict().items())
        assert tuned.weights_sha256 != start.weights_sha256
        assert (tuned.name, tuned.preprocessing, tuned.dimension) == (start.name, start.preprocessing, start.dimension)
        assert [path.name for path in tmp_path.glob("*/*")] == ["weights.safetensors"]
        read.clear()
        again = fine_tune(TorchEngine(start), archive, pictures, options, tmp_path)
        assert read == []
        assert again == tuned
        assert equal(again.network, tuned.network)
        assert Backbone.of("tiny", again.network).weights_sha256 == tuned.weights_sha256
        assert not any(p.requires_grad for p in tuned.network.parameters())
        fine_tune(TorchEngine(start), archive, pictures[1:], options, tmp_path)
        assert len(read) == len(pictures) - 1  # other pictures, other weights
    score = accuracy(tuned, "ABCJU", range(20, 40))
    assert score > 0.6  # chance is 0.2


def test_whole_run_with_fine_tuning(
    letters_zip: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: tiny_backbone())
    values = {
        "features.engine": "torch",
        "split.test_per_class": 10,
        "head.kind": "linear",
        "fine_tuning.enabled": True,
        "fine_tuning.epochs": 2,
        "fine_tuning.batch_size": 20,
    }
    runs.help_to_train(letters_zip, overrides=values)  # as the only process: it trains what the run then finds
    assert runs.is_helper() is False
    assert {entry.kind for entry in cache.entries()} >= {"tuned", "scans"}
    monkeypatch.setattr("fingerspell.finetuning.fit", None)  # nothing is trained again
    run = runs.train(letters_zip, overrides=values, out=tmp_path / "run")
    card = json.loads((run.folder / "model" / "model.json").read_text())
    assert card["backbone"]["weights"] != tiny_backbone().weights_sha256
    assert any("fine-tuned" in note for note in card["notes"])
    assert run.metrics["scores"]["letters"]["accuracy"] > 0.8
    cache.clear()
    assert cache.entries() == []


def test_two_processes_make_one_run(letters_zip: Path, tmp_path: Path) -> None:
    recipe = ("--backbone", EMBEDDED, "--size", "32", "--test-per-class", "10", "--head", "linear")
    program = ("-m", "fingerspell", "train", str(letters_zip), *recipe, "--fine-tune", "--tune-epochs", "1")
    home = tmp_path / "cache"
    in_two_processes(*program, "--out", str(tmp_path / "run"), FINGERSPELL_CACHE=str(home))
    assert (tmp_path / "run" / "report.html").exists()
    assert [path.name for path in home.glob("tuned/*/*")] == ["weights.safetensors"]


def test_a_network_is_tuned_on_the_crops_it_will_see(
    letters_zip: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: tiny_backbone())
    monkeypatch.setattr("fingerspell.hands.open_detector", lambda _file=None: FakeDetector())
    overrides = {
        "split.test_per_class": 2,
        "features.engine": "torch",
        "head.kind": "linear",
        "fine_tuning.enabled": True,
        "fine_tuning.epochs": 1,
    }
    whole = runs.train(letters_zip, recipe="real", overrides=overrides, out=tmp_path / "whole")
    cropped = runs.train(
        letters_zip, recipe="real", overrides=overrides | {"features.crop": "hand"}, out=tmp_path / "cropped"
    )
    assert len(list(cache.tuned_folder().glob("*/weights.safetensors"))) == 2  # neither took the other's weights
    cards = [json.loads((run.folder / "model" / "model.json").read_text("utf-8")) for run in (whole, cropped)]
    assert cards[0]["backbone"]["weights"] != cards[1]["backbone"]["weights"]
    assert cards[1]["crop"] == "hand"
