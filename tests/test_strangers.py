"""Each group held out in turn, with the fake backbone and real files."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import cache_with, noisy_picture
from fingerspell import calibration, evaluation, steps
from fingerspell.alphabet import LETTERS
from fingerspell.calibration import Calibration
from fingerspell.compare import compare, entries_in
from fingerspell.dataset import Picture
from fingerspell.engines import Engine
from fingerspell.errors import RecipeError, RunError, SplitError
from fingerspell.evaluation import read_probabilities
from fingerspell.model import load_model
from fingerspell.progress import silent
from fingerspell.recipes import Recipe
from fingerspell.rendering import render_dataset
from fingerspell.runs import Run, evaluate, train
from fingerspell.strangers import Fold, _look, _read_fold, fit, strangers, summarise
from fingerspell.testing import FakeDetector, fake_backbone
from pictures import encode, write_zip

OVERRIDES: dict[str, Any] = {"features.engine": "torch", "head.kind": "linear", "split.per_group": 8}
ROWS = ["anna", "people", "people/x", "people/y", "zoe"]


def three_archives(folder: Path) -> list[Path]:
    """Anna and Zoe alone, and two people of one archive; Zoe shows no J, Anna has pictures of no letter."""
    anna = {f"{x}/{n}.png": noisy_picture(x, n) for x in "ABCJ" for n in range(12)}
    anna |= {f"nothing/{n}.png": noisy_picture("?", n) for n in range(5)}
    people = {f"set/{x}/{n}.png": noisy_picture(x, 100 + n) for x in "ABCJ" for n in range(12)}
    table = "".join(f"{name},{'xy'[n % 2]}\n" for n, name in enumerate(people))
    looks = {"A": "B", "B": "A", "C": "C"}  # Zoe's hands look like other letters of the others
    zoe = {f"{x}/{n}.png": noisy_picture(look, 200 + n) for x, look in looks.items() for n in range(12)}
    return [
        write_zip(folder / "zoe.zip", zoe),
        write_zip(folder / "anna.zip", anna),
        write_zip(folder / "people.zip", people | {"signers.csv": f"path,signer\n{table}".encode()}),
    ]


@pytest.fixture(autouse=True)
def quick_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())


@pytest.fixture(scope="module")
def finished(fake_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path, dict[str, Any]]:
    """Archives, folder and result, with a model of all groups."""
    folder = tmp_path_factory.mktemp("strangers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, folder / "cache")))
        patch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())
        archives = three_archives(folder)
        result = strangers(archives, folder / "out", overrides=OVERRIDES, final={"seed": 3})
    return archives, folder / "out", result


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def named(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["group"]: row for top in result["groups"] for row in (top, *top["signers"])}


def test_each_group_is_held_out_and_scored(finished: tuple[list[Path], Path, dict[str, Any]]) -> None:
    _, out, result = finished
    found = named(result)
    assert list(found) == ROWS
    assert [row["group"] for row in result["groups"]] == ["anna", "people", "zoe"]
    assert found["anna"]["scores"]["letters"]["accuracy"] > 0.9
    assert found["zoe"]["scores"]["letters"]["accuracy"] == pytest.approx(1 / 3, abs=0.1)
    assert found["zoe"]["scores"]["letters"] == found["zoe"]["scores"]["static_letters"]  # no J
    assert found["people/x"]["scores"]["letters"]["pictures"] == 24
    accuracies = [row["scores"]["letters"]["accuracy"] for row in result["groups"]]
    mean = result["mean"]["scores"]["letters"]
    assert mean["accuracy"] == pytest.approx(np.mean(accuracies))
    assert mean["accuracy_interval"][0] < mean["accuracy"] < mean["accuracy_interval"][1] == 1
    assert (mean["groups"], mean["pictures"]) == (3, 132)
    assert found["anna"]["others"]["pictures"] == 5
    assert found["zoe"]["others"] is None
    for row in result["groups"]:
        metrics = json.loads((out / "folds" / row["group"] / "metrics.json").read_text())
        assert row["scores"]["letters"]["accuracy"] == metrics["scores"]["letters"]["accuracy"]
        assert row["as_trained"]["calibration_error"] == pytest.approx(metrics["calibration"]["error"], abs=1e-3)
        assert row["as_trained"]["named"] == pytest.approx(metrics["calibration"]["named"], abs=0.05)


def test_files_say_the_same(finished: tuple[list[Path], Path, dict[str, Any]]) -> None:
    _, out, result = finished
    assert json.loads((out / "strangers.json").read_text()) == result
    table = rows(out / "strangers.csv")
    assert [row["group"] for row in table] == [*ROWS, "mean"]
    assert [row["signer_of"] for row in table] == ["", "", "people", "people", "", ""]
    assert float(table[-1]["letters_accuracy"]) == pytest.approx(
        result["mean"]["scores"]["letters"]["accuracy"], abs=1e-4
    )
    assert (out / "strangers.png").stat().st_size > 1000
    page = (out / "strangers.html").read_text()
    assert "people/x" in page
    assert "(backbone vgg16, head linear) on" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_nobody_held_out_trains_or_validates(finished: tuple[list[Path], Path, dict[str, Any]]) -> None:
    _, out, _ = finished
    for name in ("anna", "people", "zoe"):
        table = rows(out / "folds" / name / "split.csv")
        assert {row["id"].split("/")[0] for row in table if row["role"] == "test"} == {name}
        assert all(not row["id"].startswith(f"{name}/") for row in table if row["role"] != "test")
        assert (out / "folds" / name / "report.html").exists()


def test_rendered_hands_teach_and_are_never_held_out(tmp_path: Path) -> None:
    render_dataset(tmp_path / "drawn", train_per_letter=2, test_per_letter=0, size=48)
    people = three_archives(tmp_path)[:2]
    drawn = [(file, Image.open(file)) for file in sorted((tmp_path / "drawn").rglob("*.png"))]
    alike = {f"{file.parent.name}/{n}.jpg": encode(image, "JPEG", quality=95) for n, (file, image) in enumerate(drawn)}
    people.append(write_zip(tmp_path / "bea.zip", alike))
    result = strangers([*people, tmp_path / "drawn"], tmp_path / "out", overrides=OVERRIDES)
    assert [row["group"] for row in result["groups"]] == ["anna", "bea", "zoe"]
    assert [row["near_copies"] for row in result["groups"]] == [0, 0, 0]  # of people's pictures
    assert result["rendered"] == 2 * len(LETTERS)
    for name in ("anna", "zoe"):
        roles = {row["role"] for row in rows(tmp_path / "out/folds" / name / "split.csv") if "drawn/" in row["id"]}
        assert roles == {"train"}
    assert (
        "Of 52 rendered pictures, which belong to nobody, none was held out"
        in (tmp_path / "out/strangers.html").read_text()
    )
    with pytest.raises(SplitError, match=r"found 1 group\(s\) of pictures.*Rendered sets only teach"):
        strangers([people[0], tmp_path / "drawn"], tmp_path / "alone", overrides=OVERRIDES)


def test_finished_folds_are_taken_over(
    finished: tuple[list[Path], Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    archives, out, result = finished
    (out / "folds" / "people" / "report.html").unlink()  # killed before its end
    before = {name: (out / "folds" / name / "report.html").stat().st_mtime_ns for name in ("anna", "zoe")}
    engines: list[Recipe] = []
    real = steps.choose_engine

    def spy(*given: Any) -> Engine:
        engines.append(next(value for value in given if isinstance(value, Recipe)))
        return real(*given)

    monkeypatch.setattr(steps, "choose_engine", spy)
    assert strangers(archives[::-1], out, overrides=OVERRIDES) == result
    assert len(engines) == 1
    assert (out / "folds" / "people" / "report.html").exists()
    assert {name: (out / "folds" / name / "report.html").stat().st_mtime_ns for name in before} == before
    with pytest.raises(RunError, match=r"anna: found a finished run with another recipe.*Delete this folder"):
        strangers(archives, out, overrides=OVERRIDES | {"split.per_group": 7})


@pytest.fixture
def copied(finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path) -> tuple[list[Path], Path]:
    """The archives, and a copy of their finished study, to do anything to."""
    archives, out, _ = finished
    return archives, Path(shutil.copytree(out, tmp_path / "out"))


def test_folds_of_older_code_or_other_pictures_are_refused(
    copied: tuple[list[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archives, out = copied
    with monkeypatch.context() as patch:
        patch.setattr("fingerspell.training.VERSION", 0)
        with pytest.raises(RunError, match="anna: found a finished run with another training"):
            strangers(archives, out, overrides=OVERRIDES)
    with zipfile.ZipFile(shutil.copy(archives[0], tmp_path / archives[0].name), "a") as more:
        more.writestr("nothing/1.png", noisy_picture("?", 1))  # neither trains nor tests, but chooses the threshold
    changed = [tmp_path / archives[0].name, *archives[1:]]
    with pytest.raises(RunError, match="anna: found a finished run with other pictures"):
        strangers(changed, out, overrides=OVERRIDES)


def test_a_fold_is_taken_over_for_the_same_file_and_not_for_another(
    copied: tuple[list[Path], Path], tmp_path: Path
) -> None:
    archives, out = copied
    file = tmp_path / "again.safetensors"
    file.write_bytes(b"same")
    for recipe in out.glob("folds/*/recipe.toml"):
        recipe.write_text(recipe.read_text().replace("[features]", '[features]\nweights = "moved/away.safetensors"'))
        card = recipe.parent / "model" / "model.json"
        content = json.loads(card.read_text())
        content["trained_on"]["files"] = {"weights": hashlib.sha256(b"same").hexdigest()}
        card.write_text(json.dumps(content))
    named = OVERRIDES | {"features.weights": str(file)}
    assert [row["group"] for row in strangers(archives, out, overrides=named)["groups"]]
    file.write_bytes(b"else")
    with pytest.raises(RunError, match="found a finished run with another file of --weights or --hand-model"):
        strangers(archives, out, overrides=named)


def test_a_finished_study_of_something_else_is_kept(copied: tuple[list[Path], Path]) -> None:
    archives, out = copied
    before = (out / "strangers.json").read_bytes()
    with pytest.raises(RunError, match=r"found a study with by = 'archive', expected 'signer'. Choose another folder"):
        strangers(archives, out, overrides=OVERRIDES, by="signer")
    assert (out / "strangers.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b'{"cut'),
        ("metrics.json", b"{}"),
        ("metrics.json", b"[]"),
        ("predictions.csv", b"name,label"),
        ("predictions.csv", b"name,label\nx,A"),
        ("model/model.json", b"null"),
        ("probabilities.npz", b""),
        ("probabilities.npz", b"PK\x03\x04cut"),
    ],
)
def test_damaged_folds_are_named(name: str, content: bytes, copied: tuple[list[Path], Path]) -> None:
    archives, out = copied
    damaged = out / "folds" / "people" / name
    damaged.write_bytes(content)
    with pytest.raises(RunError, match=r"people.*(found|cannot be read).*[Dd]elete th"):
        strangers(archives, out, overrides=OVERRIDES)


def test_a_fold_does_not_know_the_archive_that_it_held_out(
    finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    archives, out, _ = finished
    by_name = {path.stem: path for path in archives}
    model = load_model(out / "folds" / "zoe")
    held_out = evaluate(model, by_name["zoe"], out=tmp_path / "zoe").metrics
    assert not any("score to quote" in remark for remark in held_out["remarks"])
    assert held_out["measured_on"].endswith("without zoe")
    known = evaluate(model, by_name["anna"], out=tmp_path / "anna").metrics
    assert "This is no score to quote" in known["remarks"][0]


def test_letters_that_are_nearly_as_likely_keep_their_order(tmp_path: Path) -> None:
    likely = np.array([[0.30000, 0.30001, 0.39999]], np.float32)
    answers = SimpleNamespace(labels=("A", "B", "C"), original=likely[:, [2, 0, 1]], on_others=likely)
    (tmp_path / "probabilities.npz").write_bytes(evaluation._packed(answers))  # type: ignore[arg-type]
    _, original, on_others = read_probabilities(tmp_path)
    assert original.argsort().tolist() == [[1, 2, 0]]
    assert on_others.argsort().tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(on_others, likely, rtol=1e-5)


def test_probabilities_of_other_letters_are_refused(copied: tuple[list[Path], Path]) -> None:
    archives, out = copied
    file = out / "folds" / "people" / "probabilities.npz"
    with np.load(file) as stored:
        content = dict(stored)
    content["labels"][-1] = "X"
    np.savez_compressed(file, **content)
    with pytest.raises(RunError, match=r"people: found \d+ rows of probabilities of A, .*X for .*expected as many"):
        strangers(archives, out, overrides=OVERRIDES)


def test_runs_and_strangers_do_not_overwrite_each_other(
    finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    archives, out, _ = finished
    with pytest.raises(RunError, match="found a study of strangers, expected a run"):
        train(archives, overrides=OVERRIDES | {"split.protocol": "random"}, out=out, overwrite=True)
    shutil.copytree(out / "folds" / "zoe", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="found a run, expected a study of strangers"):
        strangers(archives, tmp_path / "run", overrides=OVERRIDES, final={})
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_model_of_all_groups_is_calibrated_on_strangers(finished: tuple[list[Path], Path, dict[str, Any]]) -> None:
    _, out, result = finished
    card = load_model(out).card
    assert {name: getattr(card, name) for name in ("temperature", "threshold", "risk")} == result["calibration"]
    assert card.scores == result["mean"]["scores"]
    assert card.trained_on["held_out_in_turn"] == ["anna", "people", "zoe"]
    assert card.labels == ("A", "B", "C", "J")
    assert {row["id"].split("/")[0] for row in rows(out / "split.csv") if row["role"] == "train"} == set(
        card.trained_on["held_out_in_turn"]
    )
    readme = (out / "model" / "README.md").read_text()
    assert "had not seen, over 3 groups" in readme
    assert card.strangers
    assert [row["group"] for row in card.strangers["groups"]] == ["anna", "people", "zoe"]
    zoe = named(result)["zoe"]["scores"]["letters"]
    low, high = zoe["accuracy_interval"]
    assert f"| zoe | 36 | {zoe['accuracy']:.3f} [{low:.3f}, {high:.3f}] |" in readme
    recalls = [row["letters"]["A"] for row in result["groups"]]
    assert card.strangers["letters"]["A"] == pytest.approx(np.mean(recalls))
    assert set(card.strangers["conditions"]) == {"original", "mirrored", "darker", "brighter", "coarse", "blurred"}
    assert "seed = 3" in (out / "recipe.toml").read_text()
    assert "seed = 0" in (out / "folds" / "zoe" / "recipe.toml").read_text()


def test_signers_are_held_out_alone_and_a_single_archive_is_enough(
    tmp_path: Path, finished: tuple[list[Path], Path, dict[str, Any]]
) -> None:
    archives, *_ = finished
    result = strangers(archives[2:], tmp_path / "out", overrides=OVERRIDES)
    assert list(named(result)) == ["x", "y"]
    joined = strangers(archives[1:], tmp_path / "signers", overrides=OVERRIDES, by="signer")
    assert list(named(joined)) == ["anna", "people/x", "people/y"]
    test = [row["id"] for row in rows(tmp_path / "signers/folds/people+x/split.csv") if row["role"] == "test"]
    assert len(test) == 24


def test_compare_knows_the_archives_again(finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path) -> None:
    archives, out, result = finished
    folds = entries_in(out / "folds")
    assert folds
    (cell,) = compare([folds], archives[:1], tmp_path / "out")["cells"]
    assert cell["own"]
    assert cell["letters"]["accuracy"] == pytest.approx(named(result)["zoe"]["scores"]["letters"]["accuracy"], abs=0.05)
    assert cell["letters"]["pictures"] == 36


def test_a_fusion_of_all_groups_is_a_model_too(
    finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives, _, _ = finished
    monkeypatch.setattr("fingerspell.hands.open_detector", lambda _=None: FakeDetector())
    fusion = {"features.crop": "hand", "head.kind": "fusion", "head.points.epochs": 2}
    result = strangers(archives, tmp_path / "out", overrides=OVERRIDES | fusion, final={})
    model = load_model(tmp_path / "out")
    assert model.card.head == "fusion"
    assert (model.card.temperature, model.card.threshold) == (
        result["calibration"]["temperature"],
        result["calibration"]["threshold"],
    )
    hand = ("hand.png", noisy_picture("A", 300))
    (answer,) = model.predictions([hand], lambda *_: None)
    assert answer.letter in "ABCJ"


def test_probabilities_come_back(finished: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path) -> None:
    _, out, _ = finished
    labels, probabilities, on_others = read_probabilities(out / "folds" / "anna")
    assert labels == ("A", "B", "C", "J")
    assert on_others.shape == (5, 4)
    best = [float(row["probability"]) for row in rows(out / "folds" / "anna" / "predictions.csv")]
    np.testing.assert_allclose(probabilities.max(axis=1), best, atol=2e-3)
    (tmp_path / "probabilities.npz").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"found no readable probabilities"):
        read_probabilities(tmp_path)


@pytest.mark.parametrize("name", ["split.protocol", "split.held_out"])
def test_the_split_is_not_asked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"{name} = 'bursts': found a split; expected none"):
        strangers(three_archives(tmp_path), tmp_path / "out", overrides={name: "bursts"})


def test_one_group_is_refused_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SplitError, match=r"zoe.zip: found 0 group\(s\) of pictures; expected at least two"):
        strangers(three_archives(tmp_path)[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def fold(name: str, count: int, sharpness: float, seed: int) -> Fold:
    """Answers that are surer than they should be by a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, len(LETTERS)))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(len(LETTERS), p=row) for row in true])
    pictures = tuple(
        Picture(f"{name}/{n}", LETTERS[t], dhash=f"{rng.integers(2**63):016x}") for n, t in enumerate(targets)
    )
    said = calibration.temper(true.astype(np.float32), 1 / sharpness)
    return Fold(
        name, pictures, (name,) * count, targets, said, said[:0], Calibration(1.0, 0.5, 0.05), 0.0, {"original": 0.5}
    )


def test_what_is_fitted_on_other_strangers_mends_the_error() -> None:
    folds = [fold("a", 2000, 3, 0), fold("b", 500, 3, 1), fold("c", 500, 3, 2)]
    result = summarise(folds, risk=0.3)
    for row in result["groups"]:
        assert row["on_strangers"]["temperature"] == pytest.approx(3, rel=0.15)
        assert row["on_strangers"]["calibration_error"] < row["as_trained"]["calibration_error"] / 3
        assert row["on_strangers"]["wrong_of_named"] == pytest.approx(0.3, abs=0.1)
    assert result["calibration"]["temperature"] == pytest.approx(3, rel=0.1)
    named, wrong = (
        np.array([row["as_trained"][name] for row in result["groups"]]) for name in ("named", "wrong_of_named")
    )
    assert result["mean"]["as_trained"]["wrong_of_named"] == pytest.approx((named * wrong).sum() / named.sum())


def test_letters_that_nobody_shows_have_no_say_in_the_threshold(
    finished: tuple[list[Path], Path, dict[str, Any]],
) -> None:
    archives, out, _ = finished
    known = _look(archives, None, OVERRIDES | {"split.protocol": "leave-one-group-out"}, silent)
    folder = out / "folds" / "zoe"
    read = _read_fold(Run(folder, json.loads((folder / "metrics.json").read_text()), {}), "zoe", known)
    assert read.labels == load_model(out).card.labels == ("A", "B", "C", "J")
    assert read.probabilities.shape == (36, 4)
    assert {read.labels[target] for target in read.targets} == {"A", "B", "C"}


def test_every_group_has_the_same_weight() -> None:
    small, large = fold("a", 300, 1, 0), fold("b", 3000, 4, 1)
    both, twice = fit([small, large], 0.1).temperature, fit([small, fold("b", 300, 4, 1)], 0.1).temperature
    assert both == pytest.approx(twice, rel=0.1)
    assert fit([large], 0.1).temperature > both + 0.5


def test_every_group_has_the_same_weight_in_pictures_of_no_letter() -> None:
    def asked(name: str, count: int, surest: float) -> Fold:
        row = np.full(len(LETTERS), (1 - surest) / (len(LETTERS) - 1), np.float32)
        row[0] = surest
        return replace(fold(name, 300, 1, 0), on_others=np.tile(row, (count, 1)))

    unsure, sure = asked("a", 200, 0.2), asked("b", 10, 0.95)
    fitted = fit([unsure, sure], 0.05)
    assert (calibration.temper(sure.on_others, fitted.temperature).max(axis=1) < fitted.threshold).all()
