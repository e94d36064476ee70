from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from conftest import cache_with, noisy_picture
from fingerspell import hands, runs, steps
from fingerspell.archive import Archive, open_archive, open_archives
from fingerspell.backbones import Backbone
from fingerspell.compare import compare, entries_in
from fingerspell.dataset import scan
from fingerspell.errors import DatasetError, MissingDependencyError, ModelError, RunError, SplitError
from fingerspell.images import CONDITIONS, decode, resize
from fingerspell.model import load_model
from fingerspell.neighbours import has_near_copy
from fingerspell.recipes import load_recipe
from fingerspell.testing import FakeDetector, fake_backbone, fake_reader
from pictures import encode, write_folder, write_zip

SMALL = {"features.engine": "torch", "split.test_per_class": 10, "split.sample": 100, "head.mlp.epochs": 12}
FILES = {
    "recipe.toml",
    "split.csv",
    "history.csv",
    "predictions.csv",
    "probabilities.npz",
    "metrics.json",
    "report.txt",
    "report.html",
    "timing.json",
    "figures/curves.png",
    "figures/confusion.png",
    "figures/per_letter.png",
    "figures/calibration.png",
    "model/SHA256SUMS",
    "model/model.onnx",
    "model/head.safetensors",
    "model/model.json",
    "model/README.md",
}


@pytest.fixture(autouse=True)
def quick_backbone(monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """Every run here sees pictures through the fake backbone; the list holds those that were loaded."""
    loaded: list[Backbone] = []

    def load(name: str, **_options: Any) -> Backbone:
        loaded.append(fake_backbone())
        return loaded[-1]

    monkeypatch.setattr("fingerspell.backbones.load_backbone", load)
    return loaded


@pytest.fixture(scope="module")
def first_run(letters_zip: Path, fake_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[runs.Run, Path]:
    """One run for the whole module, and the cache that it filled."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, folder / "cache")))
        patch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())
        return runs.train(letters_zip, overrides=SMALL, out=folder / "run"), folder / "cache"


@pytest.fixture
def run(first_run: tuple[runs.Run, Path], tmp_path: Path, own_cache: Path) -> runs.Run:
    """A copy of that run, and of its cache, to do anything to."""
    original, filled = first_run
    shutil.copytree(filled, own_cache, dirs_exist_ok=True)
    shutil.copytree(original.folder, tmp_path / "run")
    return replace(original, folder=tmp_path / "run")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_leaves_everything_and_learns(run: runs.Run) -> None:
    assert {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()} >= FILES
    assert run.metrics["scores"]["letters"]["accuracy"] > 0.9
    assert run.metrics["scores"]["letters"]["pictures"] == 50
    assert run.metrics["scores"]["static_letters"]["pictures"] == 40
    split = run.metrics["split"]
    assert split["train"] + split["validation"] == 100
    assert split["validation"] == pytest.approx(20, abs=1)  # a fifth of each letter, in whole pictures
    assert (split["protocol"], split["test"], split["reference_leak"]) == ("first-per-class", 50, False)


def test_files_agree_with_each_other(run: runs.Run) -> None:
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics == run.metrics
    predictions = rows(run.folder / "predictions.csv")
    tests = {row["id"] for row in rows(run.folder / "split.csv") if row["role"] == "test"}
    assert {row["id"] for row in predictions} == tests
    right = np.mean([row["label"] == row["predicted"] for row in predictions])
    assert metrics["scores"]["letters"]["accuracy"] == pytest.approx(right)
    assert len(rows(run.folder / "history.csv")) == 12
    report = (run.folder / "report.txt").read_text()
    assert "all letters" in report
    assert "24 static letters" in report
    recipe = tomllib.loads((run.folder / "recipe.toml").read_text())
    assert recipe["split"]["sample"] == 100
    assert recipe["head"]["mlp"]["hidden"] == [256, 128]


def test_test_set_is_the_first_frames(run: runs.Run) -> None:
    tests = [row["id"] for row in rows(run.folder / "split.csv") if row["role"] == "test"]
    assert sorted(tests) == sorted(f"set/{letter}/{letter}{number}.png" for letter in "ABCJU" for number in range(10))


def test_pictures_of_no_letter_raise_the_threshold_and_others_test_it(tmp_path: Path) -> None:
    files = {f"{x}/{x}{n}.png": noisy_picture(x, n) for x in "ABC" for n in range(40)}
    easy = runs.train(write_zip(tmp_path / "easy.zip", files), overrides=SMALL, out=tmp_path / "easy")
    assert easy.metrics["calibration"]["threshold"] == 0
    files |= {f"nothing/{n}.png": noisy_picture("?", n) for n in range(60)}
    archive = write_zip(tmp_path / "honest.zip", files)
    honest = runs.train(archive, overrides=SMALL, out=tmp_path / "honest").metrics["calibration"]
    assert 0 < honest["threshold"] < 1
    others = honest["others"]["nothing"]
    assert 20 < others["pictures"] < 40  # about half of them; the threshold is of the other half
    assert others["named"] / others["pictures"] < 0.2
    with open_archive(archive) as opened:
        choosing, testing = steps.choose_others(opened, scan(opened), load_recipe("real"))
    assert len({p.id for p in (*choosing, *testing)}) == 60
    assert not has_near_copy(choosing, testing).any()


def test_second_run_reads_no_picture_and_other_head_too(
    run: runs.Run, letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.extraction
    count = run.metrics["split"]
    # Nobody looks at the mirror images of validation pictures; ten test pictures of a letter are all there are here.
    expected = 2 * count["train"] + count["validation"] + (1 + len(CONDITIONS)) * count["test"] + 3  # of no letter
    assert run.extraction.vectors_computed == expected
    monkeypatch.setattr("fingerspell.runs.decode", None)
    variants: dict[str, dict[str, Any]] = {"seed": {"seed": 5}, "epochs": {"head.mlp.epochs": 20}}
    variants["linear"] = {"head.kind": "linear", "head.mlp.epochs": None}
    for name, values in variants.items():
        overrides = SMALL | values
        with monkeypatch.context() as patch:
            patch.setattr("fingerspell.reporting.write_report", lambda *_: None)
            patch.setattr(Archive, "read", lambda _, member: pytest.fail(f"{member} was read"))
            again = runs.train(letters_zip, overrides=overrides, out=tmp_path / name)
        assert again.extraction
        assert (again.extraction.pictures_decoded, again.extraction.vectors_computed) == (0, 0)
        assert again.metrics["scores"]["letters"]["accuracy"] > 0.8


def test_same_seed_same_files(
    run: runs.Run, letters_zip: Path, fake_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, tmp_path / "another cache")))
    again = runs.train(letters_zip, overrides=SMALL, out=tmp_path / "again" / "run")
    for name in ("split.csv", "history.csv", "predictions.csv", "metrics.json", "report.txt", "recipe.toml"):
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_onnx_agrees_with_training(run: runs.Run, letters_zip: Path) -> None:
    model = load_model(run.folder)
    with open_archive(letters_zip) as archive:
        for row in rows(run.folder / "predictions.csv"):
            probabilities = model.probabilities([model.prepare(archive.read(row["id"]))])[0]
            assert probabilities.max() == pytest.approx(float(row["probability"]), abs=1e-3)
            assert model.card.labels[int(probabilities.argmax())] == row["predicted"]


def test_exported_model_takes_rgb_uint8_and_any_batch(run: runs.Run) -> None:
    session = onnxruntime.InferenceSession(run.folder / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("pictures", "tensor(uint8)", [16, 16, 3])
    for count in (1, 3, 70):
        (out,) = session.run(None, {"pictures": np.zeros((count, 16, 16, 3), np.uint8)})
        np.testing.assert_allclose(out.sum(axis=1), np.ones(count), atol=1e-5)


def test_model_folder_explains_itself(run: runs.Run) -> None:
    card = load_model(run.folder / "model").card
    assert card.labels == tuple("ABCJU")
    assert card.trained_on["archive"] == "letters.zip"
    assert card.backbone["weights"] == fake_backbone().weights_sha256
    text = (run.folder / "model" / "README.md").read_text()
    assert "manual alphabet" in text
    assert f"{run.metrics['scores']['letters']['accuracy']:.3f}" in text
    assert not any(p.suffix in {".pkl", ".pt", ".pth", ".joblib"} for p in run.folder.rglob("*"))


def test_default_folder_is_named_by_recipe_and_digest(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {runs.train(letters_zip, overrides=SMALL | {"seed": seed}).folder for seed in (0, 1)}
    assert len(folders) == 2
    assert all(folder.parent == Path("runs") and folder.name.startswith("real-") for folder in folders)


def test_finished_run_is_not_overwritten_without_being_told(run: runs.Run, letters_zip: Path) -> None:
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"a run is already there, and finished.*--overwrite.*--out"):
        runs.train(letters_zip, overrides=SMALL | {"seed": 9}, out=run.folder)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    again = runs.train(letters_zip, overrides=SMALL | {"seed": 9}, out=run.folder, overwrite=True)
    assert tomllib.loads((again.folder / "recipe.toml").read_text())["seed"] == 9


def test_killed_overwriting_leaves_no_model_of_before(
    run: runs.Run, letters_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fingerspell.steps.extract_features", killed)
        with pytest.raises(KeyboardInterrupt):
            runs.train(letters_zip, overrides=SMALL | {"seed": 9}, out=run.folder, overwrite=True)
    with pytest.raises(ModelError, match=r"no model.json in this folder: found a run"):
        load_model(run.folder)
    again = runs.train(letters_zip, overrides=SMALL | {"seed": 9}, out=run.folder)  # goes on without being told
    assert load_model(again.folder).card.name == "run"


def test_a_model_knows_the_archive_that_it_was_trained_on(run: runs.Run, letters_zip: Path, tmp_path: Path) -> None:
    known = runs.evaluate(load_model(run.folder), letters_zip, out=tmp_path / "known").metrics
    assert "This is no score to quote: the model was trained on this archive." in known["remarks"][0]
    other = write_zip(tmp_path / "other.v2.zip", {f"A/{n}.png": noisy_picture("A", 700 + n) for n in range(9)})
    unknown = runs.evaluate(load_model(run.folder), other, out=tmp_path / "unknown").metrics
    assert not any("score to quote" in remark for remark in unknown["remarks"])


def test_a_file_is_no_folder_for_a_run(letters_zip: Path) -> None:
    before = letters_zip.read_bytes()
    with pytest.raises(RunError, match=r"letters.zip: found a file, expected a folder for a run"):
        runs.train(letters_zip, overrides=SMALL, out=letters_zip, overwrite=True)
    assert letters_zip.read_bytes() == before


def test_folder_of_somebody_else_is_left_alone(letters_zip: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", {"thesis.txt": b"years of work"})
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"mine: this folder holds something else .thesis.txt"):
            runs.train(letters_zip, overrides=SMALL, out=tmp_path / "mine", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_run_and_evaluation_do_not_overwrite_each_other(run: runs.Run, letters_zip: Path, tmp_path: Path) -> None:
    model = load_model(run.folder)
    with pytest.raises(RunError, match="found a run, expected an evaluation"):
        runs.evaluate(model, letters_zip, out=run.folder, overwrite=True)
    result = runs.evaluate(model, letters_zip, out=str(tmp_path / "result"))
    with pytest.raises(RunError, match="found an evaluation, expected a run"):
        runs.train(letters_zip, overrides=SMALL, out=result.folder, overwrite=True)
    with pytest.raises(RunError, match="an evaluation is already there, and finished"):
        runs.evaluate(model, letters_zip, out=result.folder)


def test_what_a_killed_write_left_is_in_nobodys_way(letters_zip: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "run", {".recipe.toml.x1y2.partial": b"half"})
    assert runs.train(letters_zip, overrides=SMALL, out=tmp_path / "run").metrics["scores"]


def test_changed_groups_make_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{letter}/{signer}_{i}.png" for letter in "AB" for signer in "wxyz" for i in range(6)]
    archive = write_zip(tmp_path / "people.zip", {n: noisy_picture(n[0], i) for i, n in enumerate(names)})
    values = {"split.protocol": "groups", "split.groups": "signers.csv", "head.mlp.epochs": 1}
    folders = set()
    for signers in ("wxyz", "wwyz"):
        who = dict(zip("wxyz", signers, strict=True))
        Path("signers.csv").write_text("path,signer\n" + "".join(f"{n},{who[n[2]]}\n" for n in names))
        folders.add(runs.train(archive, overrides=values).folder)
    assert len(folders) == 2


def test_one_letter_alone_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {f"A/{i}.png": noisy_picture("A", i) for i in range(20)})
    with pytest.raises(DatasetError, match="found pictures of A alone; expected at least two letters"):
        runs.train(archive, overrides={"split.test_per_class": 5}, out=tmp_path / "run")


def test_reference_leak_is_said_loudly_and_scores_higher(letters_zip: Path, tmp_path: Path) -> None:
    leaky = runs.train(letters_zip, overrides=SMALL | {"split.reference_leak": True}, out=tmp_path / "leak")
    assert leaky.metrics["split"]["reference_leak"] is True
    assert any("Reference leak" in note for note in leaky.metrics["split"]["notes"])
    assert "mistake" in leaky.metrics["remarks"][0]
    roles: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for row in rows(leaky.folder / "split.csv"):
        roles[row["role"]].add(row["id"])
    assert roles["test"] & (roles["train"] | roles["validation"])


def test_groups_come_from_a_csv_in_the_archive(tmp_path: Path) -> None:
    names = [f"{letter}/{signer}_{i}.png" for letter in "ABU" for signer in "wxyz" for i in range(6)]
    files = {name: noisy_picture(name[0], number) for number, name in enumerate(names)}
    files["signers.csv"] = ("path,signer\n" + "".join(f"{n},{n[2]}\n" for n in names)).encode()
    archive = write_zip(tmp_path / "people.zip", files)
    values = {"split.protocol": "groups", "split.groups": "signers.csv:signer", "head.mlp.epochs": 8}
    run = runs.train(archive, overrides=values, out=tmp_path / "run")
    signers: dict[str, set[str]] = {role: set() for role in ("train", "validation", "test")}
    for row in rows(run.folder / "split.csv"):
        signers[row["role"]].add(row["id"][2])
    assert not signers["train"] & signers["test"]
    assert not signers["validation"] & (signers["train"] | signers["test"])
    with pytest.raises(SplitError, match=r"'nobody.csv'.*neither on disk nor in people.zip"):
        runs.train(archive, overrides=values | {"split.groups": "nobody.csv"}, out=tmp_path / "other")


def test_signers_in_an_archive_are_found_and_several_archives_are_groups(tmp_path: Path) -> None:
    names = [f"{letter}/{signer}_{i}.png" for letter in "ABU" for signer in "wxyz" for i in range(6)]
    files = {name: noisy_picture(name[0], number) for number, name in enumerate(names)}
    files["signers.csv"] = ("path,signer\n" + "".join(f"{n},{n[2]}\n" for n in names)).encode()
    archive = write_zip(tmp_path / "people.zip", files)
    values = {"split.protocol": "groups", "head.mlp.epochs": 2, "features.engine": "torch"}
    alone = runs.train(archive, overrides=values, out=tmp_path / "alone")
    assert "Test holds the group(s)" in alone.metrics["split"]["notes"][0]
    other = write_zip(tmp_path / "other.zip", {n: noisy_picture(n[0], 500 + i) for i, n in enumerate(names)})
    held = {"split.protocol": "leave-one-group-out", "split.held_out": "people/x", "head.mlp.epochs": 2}
    joined = runs.train([other, archive], overrides=values | held, out=tmp_path / "joined")
    assert {row["id"][:11] for row in rows(joined.folder / "predictions.csv")} == {f"people/{x}/x_" for x in "ABU"}
    assert set(load_model(joined.folder).card.trained_on["parts"]) == {"other", "people"}
    mixed = runs.train([other, archive], overrides={**values, "split.protocol": "random"}, out=tmp_path / "mixed")
    assert mixed.metrics["split"]["test"] > 0


def test_a_finished_run_is_kept_only_if_it_is_the_same(letters_zip: Path, run: runs.Run) -> None:
    before = (run.folder / "report.html").stat().st_mtime_ns
    kept = runs.train(letters_zip, overrides=SMALL, out=run.folder, keep=True)
    assert kept.metrics == run.metrics
    assert (run.folder / "report.html").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="found a finished run with another recipe"):
        runs.train(letters_zip, overrides=SMALL | {"seed": 3}, out=run.folder, keep=True)
    (run.folder / "model" / "model.json").write_text("{")
    with pytest.raises(RunError, match="the finished run there cannot be read"):
        runs.train(letters_zip, overrides=SMALL, out=run.folder, keep=True)


def test_a_recipe_without_newer_values_keeps_its_digest() -> None:
    """Folders of older runs are found again."""
    from types import SimpleNamespace

    parts: Any = (
        SimpleNamespace(digest="d"),
        SimpleNamespace(to_csv=lambda: "s"),
        SimpleNamespace(identity="e", hands=None),
    )
    digest = runs._digest(load_recipe("real"), *parts)
    assert digest == "e951902c80c622582bd1c5c24791c659c0034fa88c8fca369fde94d069c376e7"


def test_layout_chooses_the_recipe(letters_zip: Path, tmp_path: Path) -> None:
    folders = {
        f"{part}_Alphabet/{letter}/{number}.png": noisy_picture(letter, number + 100 * (part == "Test"))
        for part in ("Train", "Test")
        for letter in "ABU"
        for number in range(12)
    }
    with open_archive(write_zip(tmp_path / "synthetic.zip", folders)) as archive:
        assert steps.recipe_for(archive, scan(archive)) == "synthetic"
    with open_archive(letters_zip) as archive:
        assert steps.recipe_for(archive, scan(archive)) == "real"
    flat_test = {f"train/{x}/{x}{i}.png": noisy_picture(x, i) for x in "AB" for i in range(9)}
    flat_test |= {f"test/{x}_test.png": noisy_picture(x, 50) for x in "AB"}
    with open_archive(write_zip(tmp_path / "kaggle.zip", flat_test)) as archive:
        assert steps.recipe_for(archive, scan(archive)) == "real"


def test_evaluation_on_another_set(run: runs.Run, tmp_path: Path) -> None:
    strange = {f"{x}/{i}.png": noisy_picture(x, 1000 + i) for x in "ABCJUZ" for i in range(5)}
    other = write_zip(tmp_path / "strangers.zip", strange | {"A/broken.png": b"no picture"})
    result = runs.evaluate(load_model(run.folder), other, out=tmp_path / "result")
    letters = {row["letter"]: row for row in result.metrics["per_letter"]}
    assert result.metrics["scores"]["letters"]["pictures"] == 30
    assert letters["Z"]["recall"] == 0  # a letter the model never learnt counts as wrong
    assert letters["A"]["recall"] > 0.9
    assert result.metrics["unreadable"] == 1
    assert "strangers.zip" in result.metrics["measured_on"]
    assert (result.folder / "report.html").exists()


def test_evaluating_the_test_pictures_again_gives_the_runs_own_answers(
    run: runs.Run, letters_zip: Path, tmp_path: Path
) -> None:
    result = runs.evaluate(load_model(run.folder), letters_zip, out=tmp_path / "result")
    own = {row["id"]: row for row in rows(run.folder / "predictions.csv")}
    for row in rows(result.folder / "predictions.csv"):
        if row["id"] in own:
            assert row["predicted"] == own[row["id"]]["predicted"]
            assert float(row["probability"]) == pytest.approx(float(own[row["id"]]["probability"]), abs=1e-3)


def with_one_byte_changed(name: str, folder: Path) -> None:
    data = bytearray((folder / name).read_bytes())
    place = data.index(b'"A"') + 1 if name == "model.json" else len(data) // 2
    data[place] ^= 1  # in the card, the letter A becomes @
    (folder / name).write_bytes(data)


def with_digests_of(name: str, data: bytes) -> Any:
    def damage(folder: Path) -> None:
        old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / name).write_bytes(data)
        sums = folder / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(old, hashlib.sha256(data).hexdigest()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "no model.onnx in this folder"),
        (lambda folder: (folder / "model.json").unlink(), "no model.json in this folder"),
        (lambda folder: (folder / "head.safetensors").unlink(), "no head.safetensors in this folder"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "no SHA256SUMS in this folder"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\n\n"), "model.json: not the file that was written"),
        (lambda folder: (folder / "model.json").write_text("{}"), "model.json: format: Field required"),
        (lambda folder: (folder / "model.json").write_text("{"), "model.json: content: Invalid JSON"),
        *(
            (partial(with_one_byte_changed, name), f"{name}: not the file that was written")
            for name in ("model.onnx", "head.safetensors", "model.json")
        ),
        (with_digests_of("model.onnx", b"x"), "not a readable ONNX file"),
        (
            lambda folder: (folder / "model.json").write_text(
                (folder / "model.json").read_text().replace('"format": 5', '"format": 99')
            ),
            "has format 99, this version of fingerspell reads 3, 4, 5",
        ),
    ],
)
def test_damaged_model_folder(run: runs.Run, damage: Any, message: str) -> None:
    damage(run.folder / "model")
    with pytest.raises(ModelError, match=message):
        load_model(run.folder / "model")


def test_training_and_prediction_prepare_pictures_alike(run: runs.Run, letters_zip: Path) -> None:
    model = load_model(run.folder)
    with open_archive(letters_zip) as archive:
        data = archive.read("set/A/A0.png")
    np.testing.assert_array_equal(model.prepare(data)["pictures"], resize(decode(data).pixels, 16, "nearest"))
    np.testing.assert_array_equal(model.prepare(data, "mirrored")["pictures"], model.prepare(data)["pictures"][:, ::-1])


def test_one_picture_is_predicted_from_its_bytes(run: runs.Run, letters_zip: Path) -> None:
    with open_archive(letters_zip) as archive:
        answer = load_model(run.folder).predict(archive.read("set/U/U3.png"), "U3")
    assert (answer.id, answer.letter) == ("U3", "U")


def test_no_test_picture_has_another_role(run: runs.Run) -> None:
    table = rows(run.folder / "split.csv")
    tests = {row["sha256"] for row in table if row["role"] == "test"}
    assert tests.isdisjoint(row["sha256"] for row in table if row["role"] != "test")


SLOW_RUN = """
import sys, time
import fingerspell.backbones, fingerspell.testing
from fingerspell import runs
from pathlib import Path

def load(name, **options):
    backbone = fingerspell.testing.fake_backbone()
    forward = backbone.network.forward
    def slow(batch):
        time.sleep(0.15)
        return forward(batch)
    backbone.network.forward = slow
    return backbone

fingerspell.backbones.load_backbone = load
print("ready", flush=True)
overrides = {"features.engine": "torch", "split.test_per_class": 10, "head.mlp.epochs": 5}
run = runs.train(sys.argv[1], overrides=overrides, out=Path(sys.argv[2]))
print(run.extraction.vectors_computed)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_run_killed_at_three_random_moments_ends_like_one_never_killed(
    letters_zip: Path, fake_graph: Path, tmp_path: Path
) -> None:
    for cache in ("cache of the whole", "cache of the killed"):
        cache_with(fake_graph, tmp_path / cache)

    def start(cache: str, out: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_RUN, str(letters_zip), str(out)],
            env=os.environ | {"FINGERSPELL_CACHE": str(tmp_path / cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    whole = start("cache of the whole", tmp_path / "whole" / "run")
    moments = np.random.default_rng().uniform(0.1, 1.2, 3)  # extraction alone takes 7 batches of 0.15 s
    killed = tmp_path / "killed" / "run"
    for moment in moments:
        process = start("cache of the killed", killed)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        assert not (killed / "report.html").exists()
    last = start("cache of the killed", killed)
    outputs = [process.communicate()[0] for process in (whole, last)]
    assert [process.returncode for process in (whole, last)] == [0, 0], moments
    assert int(outputs[1]) <= int(outputs[0]) == 573
    for name in ("metrics.json", "predictions.csv", "history.csv", "split.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes(), (name, moments)


class TestHands:
    """Runs that look for hands, with a detector that bends them by the picture's colours."""

    KINDS: ClassVar[dict[str, dict[str, Any]]] = {
        "points": {"features.backbone": "hand-landmarks", "features.engine": None, "head.points.epochs": 2},
        "fusion": {"features.crop": "hand", "head.kind": "fusion", "head.points.epochs": 2},
        "crop": {"features.crop": "hand"},
    }

    @pytest.fixture(autouse=True)
    def quick_detector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fingerspell.hands.open_detector", lambda _=None: FakeDetector())

    @pytest.mark.parametrize("kind", KINDS)
    def test_prediction_is_what_was_scored(self, letters_zip: Path, tmp_path: Path, kind: str) -> None:
        overrides = {name: value for name, value in SMALL.items() if kind == "crop" or "mlp" not in name}
        run = runs.train(letters_zip, overrides=overrides | self.KINDS[kind], out=tmp_path / "run")
        assert run.metrics["scores"]["letters"]["accuracy"] > 0.7
        assert set(run.metrics["conditions"]) == {"original", *CONDITIONS}
        model = load_model(run.folder)
        assert model.card.hands == FakeDetector.identity
        assert model.card.crop == (None if kind == "points" else "hand")
        table = rows(run.folder / "predictions.csv")
        with open_archive(letters_zip) as archive:
            answers = list(model.stream([(row["id"], archive.read(row["id"])) for row in table], lambda *_: None))
        for row, (_, answer) in zip(table, answers, strict=True):
            assert answer.max() == pytest.approx(float(row["probability"]), abs=1e-3)
            assert model.card.labels[int(answer.argmax())] == row["predicted"]
        extraction = run.extraction
        again = runs.train(letters_zip, overrides=overrides | self.KINDS[kind], out=tmp_path / "again")
        assert extraction
        assert again.extraction
        assert again.extraction.vectors_computed == 0
        assert again.metrics["scores"] == run.metrics["scores"]
        entry = entries_in(run.folder)
        assert entry
        (cell,) = compare([entry], [letters_zip], tmp_path / "matrix")["cells"]
        expected = run.metrics["scores"]["letters"]["accuracy"]
        assert cell["letters"]["accuracy"] == pytest.approx(expected, abs=0.03)

    def test_a_model_that_finds_no_such_detector_says_so(
        self, letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overrides = {"split.test_per_class": 10, "split.sample": 60, **self.KINDS["points"]}
        run = runs.train(letters_zip, overrides=overrides, out=tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(FakeDetector, "identity", {"hands": "1" * 64, "mediapipe": "0", "ladder": 0})
            with pytest.raises(ModelError, match=r"trained on hands found with .*--hand-model"):
                load_model(run.folder)
        monkeypatch.undo()

        def absent(name: str) -> str:
            raise PackageNotFoundError(name)

        monkeypatch.setattr("fingerspell.hands.version", absent)
        with pytest.raises(MissingDependencyError, match=r"pip install 'fingerspell\[hands\]'"):
            load_model(run.folder)


class TestReader:
    """Runs that teach a reader, with a lesson that changes nothing."""

    RECIPE: ClassVar[dict[str, Any]] = {"split.per_group": None, "split.validation": 0.2}

    @pytest.fixture
    def lessons(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """Calls of ``teach``."""
        taught: list[tuple[Any, ...]] = []

        def teach(*given: Any, **_: Any) -> Backbone:
            taught.append(given)
            return fake_reader()

        monkeypatch.setattr("fingerspell.teaching.teach", teach)
        monkeypatch.setattr("fingerspell.backbones.untaught_reader", fake_reader)
        monkeypatch.setattr("fingerspell.hands.open_detector", lambda _=None: FakeDetector())
        return taught

    @pytest.mark.parametrize("recipe", ["reader", "fusion"])
    def test_it_answers_itself_and_says_where_the_hand_is(
        self, letters_zip: Path, tmp_path: Path, lessons: list[tuple[Any, ...]], recipe: str
    ) -> None:
        run = runs.train(letters_zip, recipe=recipe, overrides=self.RECIPE, out=tmp_path / "run")
        _, _, pictures, hands_seen, groups, *_ = lessons[0]
        train = {row["id"] for row in rows(run.folder / "split.csv") if row["role"] == "train"}
        assert {p.id for p in pictures if p.label != "nothing"} == train
        assert hands_seen.shape == (len(pictures), hands.ROW)
        assert set(groups) <= train
        assert not (run.folder / "history.csv").exists()
        assert "no head was trained on its features" in (run.folder / "report.html").read_text()
        model = load_model(run.folder)
        assert model.card.padded
        table = rows(run.folder / "predictions.csv")
        with open_archive(letters_zip) as archive:
            answers = list(model.predictions([(row["id"], archive.read(row["id"])) for row in table], lambda *_: None))
        for row, answer in zip(table, answers, strict=True):
            assert answer.letter == row["predicted"]
            assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-3)
            assert (answer.hand is None) == (recipe == "fusion")  # which sees a crop, and names no place on the picture
        assert (model.detector is None) == (recipe == "reader")

    def test_who_is_held_out_teaches_nothing(
        self, letters_zip: Path, tmp_path: Path, lessons: list[tuple[Any, ...]]
    ) -> None:
        other = write_zip(
            tmp_path / "other.zip",
            {f"{x}/{n}.png": noisy_picture(x[0], 900 + n) for x in ("A", "B", "nothing") for n in range(9)},
        )
        held_out = {"split.protocol": "leave-one-group-out", "split.held_out": "letters"}
        runs.train([letters_zip, other], recipe="reader", overrides=self.RECIPE | held_out, out=tmp_path / "run")
        assert {p.id.split("/")[0] for p in lessons[0][2]} == {"other"}
        assert {p.label for p in lessons[0][2]} == {"A", "B", "nothing"}
        with open_archives([letters_zip, other]) as archive:
            recipe = steps.choose_recipe(archive, scan(archive), "reader", self.RECIPE | held_out)
            choosing, testing = steps.choose_others(archive, scan(archive), recipe)
        assert not choosing
        assert {p.id.split("/")[0] for p in testing} == {"letters"}

    def test_the_hand_is_placed_on_the_picture_and_not_on_its_square(
        self, letters_zip: Path, tmp_path: Path, lessons: list[tuple[Any, ...]]
    ) -> None:
        model = load_model(runs.train(letters_zip, recipe="reader", overrides=self.RECIPE, out=tmp_path / "run").folder)
        wide = encode(Image.new("RGB", (80, 40), "white"), "PNG")
        hand = model.predict(wide).hand
        assert hand
        assert (hand.present, hand.right) == pytest.approx((0.9, 0.8))
        assert hand.box == pytest.approx((0.25, 0.0, 0.75, 1.0))
        vector = model._run([model.prepare(wide)])[1][0][26:89].reshape(21, 3)
        expected = np.stack([vector[:, 0], (vector[:, 1] - 0.25) * 2, vector[:, 2]], axis=1)
        np.testing.assert_allclose(np.array(hand.points), expected, rtol=1e-5)
