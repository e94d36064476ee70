from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import cache_with, noisy_picture
from fingerspell import cli, runs
from fingerspell.errors import ModelError
from fingerspell.recipes import load_recipe
from fingerspell.testing import fake_backbone
from pictures import write_folder, write_zip

SMALL = ["--test-per-class", "10", "--sample", "100", "--epochs", "10"]


@pytest.fixture(autouse=True)
def quick_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())


@pytest.fixture(scope="module")
def trained(letters_zip: Path, fake_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())
        patch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, folder / "cache")))
        overrides = {"split.test_per_class": 10, "split.sample": 100, "head.mlp.epochs": 12}
        return runs.train(letters_zip, overrides=overrides, out=folder / "run").folder


def command(*arguments: object, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], input=stdin, catch_exceptions=True)


def whole_program(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of ``fingerspell ARGUMENTS``, through the entry point."""
    monkeypatch.setattr(sys, "argv", ["fingerspell", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_train_shows_scores_and_ends_with_the_report(letters_zip: Path, tmp_path: Path) -> None:
    result = command("train", letters_zip, *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "static letters" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert "Computing features" in result.stderr


def test_train_as_json(letters_zip: Path, tmp_path: Path) -> None:
    result = command("train", letters_zip, *SMALL, "--out", tmp_path / "run", "--json")
    told = json.loads(result.stdout)
    assert told["folder"] == str(tmp_path / "run")
    assert told["scores"] == json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"]


def test_train_helps_where_another_process_leads(letters_zip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(runs, "help_to_train", lambda _archive, **options: given.update(options))
    result = command("train", letters_zip, "--fine-tune", "--tune-epochs", "2", "--tune-rate", "0.001")
    assert (result.exit_code, result.output) == (0, "")
    chosen = {name: value for name, value in given["overrides"].items() if value is not None}
    assert chosen == {
        "fine_tuning.enabled": True,
        "fine_tuning.epochs": 2,
        "fine_tuning.learning_rate": 0.001,
    }


def test_strangers_is_not_for_several_processes(
    letters_zip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert whole_program("strangers", letters_zip, monkeypatch=monkeypatch) == 1
    assert "found process 1 of several, expected one" in capsys.readouterr().err


def test_a_rank_that_is_no_number_says_so(
    letters_zip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert whole_program("train", letters_zip, monkeypatch=monkeypatch) == 1
    assert "environment variable RANK: found 'first', expected the number" in capsys.readouterr().err


def test_a_rank_that_a_scheduler_left_behind_is_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("1", "-1", ""):
        monkeypatch.setenv("RANK", rank)
        assert not runs.is_helper()  # one process alone does all the work


@pytest.mark.parametrize("verb", ["train", "strangers", "evaluate", "explain", "inspect", "render"])
def test_results_that_cannot_be_written_are_refused_before_the_work(
    verb: str,
    letters_zip: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_bytes(b"a user's")
    monkeypatch.setattr("fingerspell.steps.choose_engine", None)
    monkeypatch.setattr("fingerspell.evaluation.answer", None)
    monkeypatch.setattr("fingerspell.explanation.explain", None)
    monkeypatch.setattr("fingerspell.looks.measure", None)
    monkeypatch.setattr("fingerspell.rendering.generate._write_table", None)
    other = Path(shutil.copy(letters_zip, tmp_path / "other.zip"))
    out = tmp_path / "file" / "out"
    given: dict[str, list[Any]] = {
        "train": [letters_zip, "--split", "random", "--out", out],
        "strangers": [letters_zip, other, "--out", out],
        "evaluate": [trained, letters_zip, "--out", out],
        "explain": [letters_zip, "--out", out],
        "inspect": [letters_zip, "--html", out / "findings.html"],
        "render": [out],
    }
    assert whole_program(verb, *given[verb], monkeypatch=monkeypatch) == 1
    assert "file/out: cannot be written (Not a directory)" in capsys.readouterr().err.replace("\n", "")
    assert (tmp_path / "file").read_bytes() == b"a user's"


def test_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "fingerspell", "--help"], capture_output=True, text=True, check=True)
    assert "train" in done.stdout


def spied_train(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``runs.train`` is called with; it then stops."""
    given: dict[str, Any] = {}

    def spy(_archive: Path, **options: Any) -> None:
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("fingerspell.runs.train", spy)
    return given


@pytest.mark.parametrize(
    ("option", "value", "place"),
    [
        ("--sample", 100, "split.sample"),
        ("--split", "random", "split.protocol"),
        ("--fold", 2, "split.fold"),
        ("--guard", 3, "split.guard"),
        ("--held-out", "anna", "split.held_out"),
        ("--per-group", 40, "split.per_group"),
        ("--groups", "signers.csv", "split.groups"),
        ("--test-per-class", 7, "split.test_per_class"),
        ("--backbone", "resnet50", "features.backbone"),
        ("--weights", "w.safetensors", "features.weights"),
        ("--size", 64, "features.size"),
        ("--interpolation", "bicubic", "features.interpolation"),
        ("--input-scale", "unit", "features.input_scale"),
        ("--head", "linear", "head.kind"),
        ("--epochs", 3, "head.mlp.epochs"),
        ("--patience", 2, "head.mlp.patience"),
        ("--seed", 11, "seed"),
    ],
)
def test_every_option_reaches_its_place_in_the_recipe(
    option: str, value: object, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spied_train(monkeypatch)
    command("train", "x.zip", option, value)
    assert given["overrides"][place] == value
    assert [v for key, v in given["overrides"].items() if v is not None] == [value]


def test_train_without_options_is_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    given = spied_train(monkeypatch)
    command("train", "x.zip")
    from fingerspell.recipes import override

    assert override(load_recipe("real"), given["overrides"]) == load_recipe("real")


def test_strangers_shows_groups_and_ends_with_the_report(tmp_path: Path) -> None:
    archives = [
        write_zip(
            tmp_path / f"{name}.zip", {f"{x}/{n}.png": noisy_picture(x, n + start) for x in "ABC" for n in range(8)}
        )
        for name, start in (("anna", 0), ("bob", 50))
    ]
    options = ("--head", "linear", "--per-group", 5, "--out", tmp_path / "out")
    result = command("strangers", *archives, *options)
    assert result.exit_code == 0, result.output
    assert "anna" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'strangers.html'}"
    told = json.loads(command("strangers", *archives, *options, "--json").stdout)
    assert [row["group"] for row in told["groups"]] == ["anna", "bob"]
    assert "per_group = 5" in (tmp_path / "out" / "folds" / "bob" / "recipe.toml").read_text()


def test_failure_is_one_message_and_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whole_program("train", tmp_path / "none.zip", monkeypatch=monkeypatch) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert "none.zip: there is no such file or folder" in captured.err
    assert "Traceback" not in captured.err


def test_missing_training_part_names_the_pip_line(
    letters_zip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fingerspell.exporting", None)
    assert whole_program("train", letters_zip, monkeypatch=monkeypatch) == 1
    assert "pip install 'fingerspell[train]'" in capsys.readouterr().err


def test_predict_names_letters_and_runners_up(trained: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {"one.png": noisy_picture("B", 500), "two.png": noisy_picture("U", 501)})
    result = command("predict", trained, tmp_path / "one.png", tmp_path / "two.png")
    assert result.exit_code == 0
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(tmp_path / "one.png"), str(tmp_path / "two.png")]
    assert [line[2].split()[0] for line in lines] == ["B", "U"]
    assert all(line[1] in {line[2].split()[0], "no letter"} for line in lines)
    assert all(float(line[2].split()[1]) > float(line[3].split()[1]) for line in lines)


@pytest.mark.parametrize("verb", ["predict", "evaluate", "explain", "compare"])
def test_a_hand_model_without_effect_is_refused(
    verb: str,
    trained: Path,
    letters_zip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status = whole_program(verb, trained, letters_zip, "--hand-model", "hand.task", monkeypatch=monkeypatch)
    assert status == (1 if verb == "compare" else 2)
    assert "--hand-model has no effect" in capsys.readouterr().err


def test_inspect_does_not_write_over_a_folder(letters_zip: Path, tmp_path: Path) -> None:
    result = command("inspect", letters_zip, "--html", tmp_path)
    assert result.exit_code == 2
    assert "expected a file to write to" in result.stderr.replace("\n", "")
    assert command("inspect", tmp_path / "nothing.zip", "--html", tmp_path / "new" / "page.html").exit_code == 1
    assert not (tmp_path / "new").exists()


def test_predict_takes_folders_archives_and_stdin(trained: Path, tmp_path: Path) -> None:
    pictures = {f"deep/er/{x}.png": noisy_picture(x, 600) for x in "ABJ"} | {"notes.txt": b"ignored"}
    folder = write_folder(tmp_path / "folder", pictures)
    archive = write_zip(tmp_path / "some.zip", pictures)
    result = command("predict", trained, folder, archive, "-", "--json", stdin=noisy_picture("U", 601))
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["letter"] for row in rows] == ["A", "B", "J"] * 2 + ["U"]
    assert rows[-1]["id"] == "stdin"
    assert set(rows[0]) == {"id", "answer", "letter", "probability", "runner_up", "runner_up_probability"}


def test_predict_names_what_it_cannot_read_and_goes_on(trained: Path, tmp_path: Path) -> None:
    files = {"a.png": noisy_picture("A", 700), "b.png": b"", "../c.png": noisy_picture("A", 701), "d.png": b"\x89PNG"}
    archive = write_zip(tmp_path / "some.zip", files)
    result = command("predict", trained, archive, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["letter"] for line in result.stdout.splitlines()] == ["A"]
    assert "b.png: empty file (0 bytes)" in result.stderr
    assert "c.png: name points outside the archive" in result.stderr
    assert "d.png: " in result.stderr


def test_predict_shows_no_control_characters(trained: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "some.zip", {"\x1b[31mred\tand.png": noisy_picture("A", 700), "\x1bcut.png": b"cut"})
    result = command("predict", trained, archive)
    assert r"\x1b[31mred\tand.png" in result.stdout
    assert r"\x1bcut.png: " in result.stderr
    assert "\x1b" not in result.output
    assert [line.count("\t") for line in result.stdout.splitlines()] == [3]
    screenshot = write_zip(
        tmp_path / "other.zip", {"A/at 5\u202fPM.png": noisy_picture("A", 700), "A/\x1bb.png": b"cut", "A/\nc.png": b""}
    )
    assert "at 5\u202fPM.png\t" in command("predict", trained, screenshot).stdout  # nothing but a space of its own
    inspected = command("inspect", screenshot)
    assert r"\x1bb.png" in inspected.stdout
    assert r"A/\nc.png: empty file" in inspected.stdout
    assert "\x1b" not in inspected.output


def test_predict_of_an_empty_name_or_a_closed_stdin(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for name in ("", "-"):
        assert whole_program("predict", trained, name, monkeypatch=monkeypatch) == 1
        assert "nothing is there" in capsys.readouterr().err


def test_a_folder_of_runs_is_no_model_and_no_pictures(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noisy_picture("A", 700))
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained, tmp_path / "runs" / "one")
    assert command("explain", tmp_path / "a.png", "--out", tmp_path / "explanation").exit_code == 0
    assert command("predict", tmp_path).exit_code == 0  # an explanation is no run
    for inputs in ([tmp_path / "runs", tmp_path / "a.png"], [tmp_path / "runs"]):
        result = command("predict", *inputs)
        assert isinstance(result.exception, ModelError)
        assert "a folder with runs in it, expected one, as" in str(result.exception)


def test_predict_of_what_is_not_there_keeps_the_other_answers(trained: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {"one.png": noisy_picture("B", 500), "two.png": noisy_picture("U", 501), "notes": b"text"})
    (tmp_path / "empty").mkdir()
    write_zip(tmp_path / "whole.zip", {"a.png": noisy_picture("B", 502)})
    (tmp_path / "cut.zip").write_bytes((tmp_path / "whole.zip").read_bytes()[:-30])
    inputs = [tmp_path / name for name in ("one.png", "missing.jpg", "empty", "notes", "cut.zip", "two.png")]
    result = command("predict", trained, *inputs, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["letter"] for line in result.stdout.splitlines()] == ["B", "U"]
    assert "missing.jpg: there is no such file or folder" in result.stderr
    assert "empty: no pictures in it, expected files that end in .bmp, .gif, .jpeg" in result.stderr
    assert "cut.zip: not a whole zip file" in result.stderr
    assert result.stderr.count("cut.zip") == 1
    assert "notes: not a picture in a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM)" in result.stderr


def test_predict_knows_pictures_by_their_content(trained: Path, tmp_path: Path) -> None:
    photo = b"\x00\x00\x00\x18ftypheic" + b"\x00" * 100
    write_folder(tmp_path, {"hand": noisy_picture("B", 500), "IMG_1.HEIC": photo})
    result = command("predict", trained, tmp_path / "hand", tmp_path / "IMG_1.HEIC", "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["letter"] for line in result.stdout.splitlines()] == ["B"]
    assert "IMG_1.HEIC: a HEIC or AVIF picture, which is not read; save it as JPEG" in result.stderr


@pytest.mark.parametrize(
    ("mark", "result"),
    [
        ("strangers.json", "a study of strangers"),
        ("folds/one/recipe.toml", "a study of strangers"),
        ("recipe.toml", "a run"),
        ("metrics.json", "an evaluation"),
    ],
)
def test_results_without_a_model_are_no_pictures(tmp_path: Path, mark: str, result: str) -> None:
    figure, hand = noisy_picture("A", 1), noisy_picture("B", 500)
    write_folder(tmp_path, {f"out/{mark}": b"{}", "out/strangers.png": figure, "hand.png": hand})
    said = command("predict", tmp_path / "out", tmp_path / "hand.png")
    assert said.exit_code == 1
    assert not said.stdout
    assert f"out: no model.json in this folder: found {result}, expected" in str(said.exception)
    assert "one of folds/*" in str(said.exception)
    assert "`fingerspell strangers ... --final`" in str(said.exception)


def test_results_are_no_pictures_wherever_they_stand_and_names_stay_as_they_are(trained: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {":v: [b]hand.png": noisy_picture("B", 500), ":x:[/b].png": b"none"})
    said = command("predict", trained, tmp_path / ":v: [b]hand.png", tmp_path / ":x:[/b].png", trained)
    assert said.exit_code == 1
    assert [line.partition("\t")[0] for line in said.stdout.splitlines()] == [str(tmp_path / ":v: [b]hand.png")]
    assert ":x:[/b].png: not a picture in a known format" in said.stderr
    assert f"{trained}: a model or another result, expected pictures" in said.stderr


def test_explain_tells_of_each_refusal_once(trained: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {"hand.png": noisy_picture("B", 500), "text.png": b"none"})
    said = command("explain", trained, tmp_path / "hand.png", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert said.exit_code == 1
    assert said.stderr.count("nowhere: there is no such file or folder") == 1
    assert (tmp_path / "out" / "explanation.png").exists()
    said = command("explain", trained, tmp_path / "text.png")
    assert "text.png: not a picture in a known format" in said.stderr
    assert "none of these pictures can be read" in str(said.exception)
    assert command("explain", trained, "-").exit_code == 2


def test_explain_asks_the_model_in_the_box_where_none_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"hand.png": noisy_picture("B", 500)})
    said = command("explain", tmp_path / "hand.png", "--out", tmp_path / "out", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["model"] == "reader"
    said = command("explain", tmp_path / "no-such-model", tmp_path / "hand.png")
    assert "there is no such model, picture or archive" in str(said.exception)


def test_system_errors_are_one_line(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    assert whole_program("train", letters_zip, *SMALL, "--out", out, monkeypatch=monkeypatch) == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["typo", "real-0.5"])
def test_no_other_model_answers_for_a_missing_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, {"one.png": noisy_picture("B", 500)})
    assert whole_program("predict", tmp_path / name, tmp_path / "one.png", monkeypatch=monkeypatch) == 1
    captured = capsys.readouterr()
    assert f"{name}: there is no such model" in captured.err
    assert not captured.out


def test_a_model_alone_or_too_many_arguments_are_wrong_usage(trained: Path) -> None:
    for arguments, reason in (
        (("predict", trained), "alone, expected pictures behind it"),
        (("evaluate", trained), "alone, expected an archive behind it"),
        (("evaluate", trained, "a.zip", "b.zip"), "found 3 arguments"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2
        assert reason in " ".join(result.output.replace("│", " ").split())
        assert not result.stdout


def test_predict_needs_no_torch(trained: Path, tmp_path: Path) -> None:
    import subprocess

    write_folder(tmp_path, {"one.png": noisy_picture("B", 500)})
    program = (
        "import sys\n"
        "for name in ('torch', 'timm', 'sklearn', 'matplotlib', 'scipy', 'onnx'):\n    sys.modules[name] = None\n"
        "from fingerspell.cli import app\n"
        f"app(['predict', {str(trained)!r}, {str(tmp_path / 'one.png')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\t")[1][0]) == (0, "B"), done.stderr


def test_evaluate_on_strangers(trained: Path, tmp_path: Path) -> None:
    strangers = write_zip(
        tmp_path / "s.zip", {f"{x}/{i}.png": noisy_picture(x, 800 + i) for x in "ABU" for i in range(4)}
    )
    result = command("evaluate", trained, strangers, "--out", tmp_path / "result", "--json")
    assert json.loads(result.stdout)["scores"]["letters"]["pictures"] == 12
    again = command("evaluate", trained, strangers, "--out", tmp_path / "result")
    assert "already there" in str(again.exception)


def test_inspect_shows_counts_problems_and_the_table(tmp_path: Path) -> None:
    files = {f"A/{i}.png": noisy_picture("A", i) for i in range(30)}
    files |= {"A/bad.png": b"", "weird/x.png": noisy_picture("B", 1), ".DS_Store": b"x"}
    archive = write_zip(tmp_path / "some.zip", files)
    result = command("inspect", archive, "--csv", tmp_path / "table.csv")
    assert result.exit_code == 0
    for fact in ("some.zip: 32 pictures", "weird (1)", ".DS_Store (1)", "A/bad.png: empty file", "B, C, D"):
        assert fact in result.stdout, fact
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 33
    assert json.loads(command("inspect", archive, "--json").stdout)["labels"] == {"A": {"": 30}}


def test_inspect_of_many_problems_stops_listing(tmp_path: Path) -> None:
    files = {f"A/{i}.png": noisy_picture("A", i) for i in range(20)} | {f"A/b{i}.png": b"" for i in range(25)}
    result = command("inspect", write_zip(tmp_path / "some.zip", files))
    assert "and 5 more" in result.stdout
    assert "25 of 45 pictures of letters cannot be read" in str(result.exception)


def test_render_draws_the_synthetic_layout(tmp_path: Path) -> None:
    result = command("render", tmp_path / "hands", "--train", 1, "--test", 1, "--size", 32)
    assert result.exit_code == 0, result.exception
    assert "54 pictures drawn" in result.stdout
    assert (tmp_path / "hands.png").exists()
    assert len(list((tmp_path / "hands" / "Train_Alphabet" / "Q").glob("*.png"))) == 1
    assert len(list((tmp_path / "hands" / "Test_Alphabet" / "Blank").glob("*.png"))) == 1


def test_cache_is_shown_and_cleared(letters_zip: Path, tmp_path: Path, own_cache: Path) -> None:
    command("train", letters_zip, *SMALL, "--out", tmp_path / "run")
    shown = command("cache").stdout
    assert "features" in shown
    assert str(own_cache) in shown
    entries = json.loads(command("cache", "--json").stdout)
    assert {entry["kind"] for entry in entries} == {"features", "graphs", "scans"}
    assert json.loads(command("cache", "--clear", "--json").stdout)["freed"] == sum(e["size"] for e in entries)
    assert command("cache", "--clear").stdout == "0.0 MiB freed\n"


def test_demo_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_DEMO_PICTURES", {"train_per_letter": 4, "test_per_letter": 1, "size": 32})
    result = command("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines()[-1] == f"Report: {tmp_path / 'demo' / 'recogniser' / 'report.html'}"
    metrics = json.loads((tmp_path / "demo" / "recogniser" / "metrics.json").read_text())
    assert metrics["split"]["protocol"] == "folders"
    assert metrics["scores"]["letters"]["pictures"] == 26


@pytest.mark.parametrize(
    "verb", ["train", "strangers", "evaluate", "predict", "inspect", "compare", "explain", "render", "cache", "demo"]
)
def test_help_has_examples(verb: str) -> None:
    text = command(verb, "--help").stdout
    assert "Examples" in text
    assert f"fingerspell {verb}" in text


def test_probabilities_are_rounded_for_people_and_whole_for_machines(trained: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {"one.png": noisy_picture("B", 500)})
    whole = json.loads(command("predict", trained, tmp_path / "one.png", "--json").stdout)["probability"]
    shown = command("predict", trained, tmp_path / "one.png").stdout.split("\t")[2].split()[1]
    assert shown == f"{whole:.3f}"
    assert np.isclose(float(shown), whole, atol=5e-4)
