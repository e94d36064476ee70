"""The matrix of models and data sets, with the fake backbone and real files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import cache_with, noisy_picture
from fingerspell import runs
from fingerspell.archive import Archive
from fingerspell.compare import Answered, _paired, compare, entries_in
from fingerspell.errors import FingerspellError, ModelError, RunError
from fingerspell.testing import fake_backbone
from pictures import write_zip

SMALL: dict[str, Any] = {"split.protocol": "random", "split.sample": 150, "head.mlp.epochs": 12}


@pytest.fixture(scope="module")
def trained(letters_zip: Path, fake_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``mlp`` and ``linear``, and two folds in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, folder / "cache")))
        patch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())
        patch.setattr("fingerspell.reporting.write_report", lambda *_: None)
        linear = SMALL | {"head.kind": "linear", "head.mlp.epochs": None}
        variants = {"mlp": SMALL, "linear": linear} | {f"folds/{n}": linear | {"split.fold": n} for n in (0, 1)}
        for name, overrides in variants.items():
            runs.train(letters_zip, overrides=overrides, out=folder / name)
    return folder


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """Other pictures: A and B change their looks, C stays as it was."""
    looks = {"A": "B", "B": "A", "C": "C"}
    files = {f"{letter}/{n}.png": noisy_picture(look, 100 + n) for letter, look in looks.items() for n in range(8)}
    return write_zip(tmp_path / "strangers.zip", files)


def cell(result: dict[str, Any], model: str, archive: str) -> dict[str, Any]:
    return next(c for c in result["cells"] if (c["model"], c["archive"]) == (model, archive))


def test_matrix(trained: Path, letters_zip: Path, strangers: Path, tmp_path: Path) -> None:
    entries = [entry for name in ("mlp", "linear", "folds") if (entry := entries_in(trained / name))]
    result = compare(entries, [letters_zip, strangers], tmp_path / "out")
    assert result["archives"] == ["letters", "strangers"]
    own, foreign = cell(result, "linear", "letters"), cell(result, "linear", "strangers")
    assert own["own"]
    assert not foreign["own"]
    with (trained / "linear" / "split.csv").open(newline="") as file:
        tests = [row["id"] for row in csv.DictReader(file) if row["role"] == "test"]
    assert own["letters"]["pictures"] == len(tests) == 40
    assert own["calibration_error"] < foreign["calibration_error"]  # it is as sure of what has changed its looks
    assert foreign["wrong_of_named"] > 0.5
    metrics = json.loads((trained / "linear" / "metrics.json").read_text())
    assert own["letters"]["accuracy"] == pytest.approx(metrics["scores"]["letters"]["accuracy"], abs=0.03)
    assert foreign["letters"]["pictures"] == 24
    assert foreign["letters"]["accuracy"] == pytest.approx(1 / 3, abs=0.1)
    assert cell(result, "folds", "letters")["letters"]["pictures"] == 80  # two folds, each its own test pictures
    assert cell(result, "folds", "strangers")["letters"]["pictures"] == 48  # each answers all of them
    pair = next(p for p in result["pairs"] if (p["archive"], p["model"], p["other"]) == ("strangers", "mlp", "linear"))
    assert pair["pictures"] == 24
    assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
    with (tmp_path / "out" / "matrix.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("comparison.json", "comparison.html", "matrix.csv", "paired.csv", "matrix.png")
    }
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "strangers" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_features_are_computed_once(
    trained: Path, strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry for name in ("mlp", "linear") if (entry := entries_in(trained / name))]
    first = compare(entries, [strangers], tmp_path / "first")
    monkeypatch.setattr(Archive, "read", lambda _, member: pytest.fail(f"{member} was read"))
    assert compare(entries, [strangers], tmp_path / "again") == first


def test_of_its_own_archive_nothing_but_test_pictures(trained: Path, letters_zip: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "mlp" / "model", tmp_path / "alone")
    entry = entries_in(tmp_path / "alone")
    assert entry
    with pytest.raises(ModelError, match=r"trained on this archive, and without the split.csv"):
        compare([entry], [letters_zip], tmp_path / "out")


def test_what_is_no_model_is_an_archive(trained: Path, tmp_path: Path) -> None:
    assert entries_in(tmp_path / "nowhere.zip") is None
    (tmp_path / "A").mkdir()
    assert entries_in(tmp_path) is None
    folds = entries_in(trained / "folds")
    assert folds
    assert [folder.parent.name for folder in folds.folders] == ["0", "1"]


def test_nothing_to_compare(trained: Path, strangers: Path, tmp_path: Path) -> None:
    entry = entries_in(trained / "mlp")
    assert entry
    with pytest.raises(RunError, match="found no models"):
        compare([], [strangers], tmp_path / "out")
    with pytest.raises(RunError, match="found no archives"):
        compare([entry], [], tmp_path / "out")
    with pytest.raises(RunError, match="two models have one name"):
        compare([entry, entry], [strangers], tmp_path / "out")
    with pytest.raises(FingerspellError, match=r"nowhere.zip"):
        compare([entry], [tmp_path / "nowhere.zip"], tmp_path / "out")


def test_several_answers_to_a_picture_count_as_their_mean(trained: Path, strangers: Path, tmp_path: Path) -> None:
    entries = [entry for name in ("mlp", "folds") if (entry := entries_in(trained / name))]
    result = compare(entries, [strangers], tmp_path / "out")
    (pair,) = result["pairs"]
    one, other = (cell(result, name, "strangers")["letters"]["accuracy"] for name in ("mlp", "folds"))
    assert pair["difference"] == pytest.approx(one - other)
    ids, looks = np.array(["1", "1", "2", "2"]), np.array(["A", "A", "B", "B"])
    sure, named, bursts = np.ones(4, np.float32), np.ones(4, bool), np.arange(4)
    answered = [Answered(ids, looks, np.array(list(said)), sure, named, bursts, False) for said in ("AXXX", "AABB")]
    assert _paired(*answered)["difference"] == pytest.approx(-0.75)


def test_runs_of_different_recipes_are_no_folds(trained: Path, strangers: Path, tmp_path: Path) -> None:
    for name in ("mlp", "linear"):
        shutil.copytree(trained / name, tmp_path / "runs" / name)
    entry = entries_in(tmp_path / "runs")
    assert entry
    with pytest.raises(RunError, match=r"runs: found runs of real \(.*linear\), real \(.*mlp\) in this"):
        compare([entry], [strangers], tmp_path / "out")


def test_a_comparison_replaces_nothing_but_a_comparison(trained: Path, strangers: Path, tmp_path: Path) -> None:
    entry = entries_in(trained / "mlp")
    assert entry
    shutil.copytree(trained / "linear", tmp_path / "run")
    with pytest.raises(RunError, match=r"run: this folder holds something else .* found a run, expected a comparison"):
        compare([entry], [strangers], tmp_path / "run")
    assert not (tmp_path / "run" / "comparison.json").exists()
    with pytest.raises(RunError, match=r"strangers\.zip: found a file, expected a folder for a comparison"):
        compare([entry], [strangers], strangers)
    for _ in range(2):
        compare([entry], [strangers], tmp_path / "again")


def test_archives_are_named_as_among_others(trained: Path, strangers: Path, tmp_path: Path) -> None:
    entry = entries_in(trained / "mlp")
    assert entry
    sets = [tmp_path / "hands.v1", tmp_path / "hands.v2"]
    for folder in sets:
        shutil.unpack_archive(strangers, folder)
    assert compare([entry], sets, tmp_path / "out")["archives"] == ["hands.v1", "hands.v2"]
