"""The model in the box: whole, small, used without a model's name, and silent where no hand is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fingerspell import model as model_module
from fingerspell import runs
from fingerspell.alphabet import LETTERS
from fingerspell.archive import open_archive
from fingerspell.backbones import features_version
from fingerspell.cli import app
from fingerspell.dataset import scan
from fingerspell.errors import ModelError
from fingerspell.model import Model, load_model
from fingerspell.recipes import load_recipe, override
from fingerspell.rendering import render_letter
from pictures import encode

GROUPS = ["asl_real", "signers_j", "signers_k", "signers_m", "signers_p"]


@pytest.fixture(scope="module")
def boxed() -> Model:
    return load_model()


def rendered(letter: str) -> bytes:
    return encode(Image.fromarray(render_letter(letter, np.random.default_rng(ord(letter)), 128)), "PNG")


def test_it_is_small_and_says_what_it_was_trained_on(boxed: Model) -> None:
    files = [path for path in model_module.BOXED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert not any(b"site-packages" in path.read_bytes() for path in files)  # nothing of the machine that made it
    card = boxed.card
    assert card.labels == LETTERS
    assert card.trained_on["held_out_in_turn"] == GROUPS
    assert {*card.trained_on["parts"]} == {*GROUPS, "hands"}  # the last one is rendered
    assert len(card.trained_on["recipe_sha256"]) == len(card.trained_on["pictures_sha256"]) == 64
    assert card.strangers
    assert [row["group"] for row in card.strangers["groups"]] == GROUPS
    readme = (model_module.BOXED / "README.md").read_text()
    assert "On people that were not trained on" in readme


def test_it_is_of_the_recipe_that_is_there(boxed: Model) -> None:
    recipe = override(load_recipe("reader"), {"split.protocol": "leave-one-group-out"})
    assert boxed.card.trained_on["recipe_sha256"] == runs._recipe_digest(recipe)  # else: make boxed
    assert boxed.card.trained_on["training"] == runs._training(recipe)
    assert boxed.card.backbone["version"] == features_version("reader")


@pytest.mark.shared
def test_it_is_of_the_pictures_that_are_there(boxed: Model, shared: Path) -> None:
    with open_archive(shared / "data" / "signers_p.zip") as archive:
        assert scan(archive).digest == boxed.card.trained_on["parts"]["signers_p"]


def test_it_is_used_where_no_model_is_named_and_says_where_the_hand_is(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(rendered("B"))
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "b.png"), "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert np.array(answer["hand"]["points"]).shape == (21, 3)
    assert answer["hand"]["present"] > 0.5
    left, top, right, bottom = answer["hand"]["box"]
    assert (0 < right - left < 1.5) == (0 < bottom - top < 1.5) is True
    assert 0.25 < (left + right) / 2 < 0.75


def test_it_needs_no_torch_and_no_mediapipe(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(rendered("B"))
    code = (
        "import sys\n"
        "for name in ('torch', 'mediapipe', 'timm', 'openvino'):\n    sys.modules[name] = None\n"
        "from fingerspell.model import load_model\n"
        f"print(load_model().predict(open({str(tmp_path / 'b.png')!r}, 'rb').read()).letter)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() in LETTERS


def test_walls_and_noise_get_no_letter(boxed: Model) -> None:
    rng = np.random.default_rng(0)
    named = 0
    for number in range(20):
        cells = rng.integers(0, 256, (1 + number % 6, 1 + number % 5, 3)).astype(np.uint8)
        wall = Image.fromarray(cells).resize((160, 120), Image.Resampling.BICUBIC)
        grain = np.asarray(wall, np.int16) + rng.normal(0, number, (120, 160, 3)).astype(np.int16)
        answer = boxed.predict(encode(Image.fromarray(grain.clip(0, 255).astype(np.uint8)), "PNG"))
        named += answer.answer != "no letter"
    assert named <= 1


def test_a_box_without_a_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model_module, "BOXED", tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model in its box"):
        load_model()


@pytest.mark.shared
@pytest.mark.parametrize(("name", "least"), [("signers_k", 0.75), ("signers_p", 0.9)])
def test_it_reads_the_hands_that_it_was_taught_on(boxed: Model, shared: Path, name: str, least: float) -> None:
    with open_archive(shared / "data" / f"{name}.zip") as archive:
        pictures = scan(archive).letters()[::40]
        files = [(picture.id, archive.read(picture.id)) for picture in pictures]
    answers = list(boxed.predictions(files, lambda *_: None))
    right = np.mean([answer.letter == picture.label for answer, picture in zip(answers, pictures, strict=True)])
    assert right > least
