"""The study's numbers stand in the recipes, and wrong values are refused with their place."""

from __future__ import annotations

import tomllib
from dataclasses import FrozenInstanceError, asdict, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from fingerspell.errors import RecipeError
from fingerspell.recipes import Recipe, SplitOptions, load_recipe, looks_for_hands, names, override

if TYPE_CHECKING:
    from pathlib import Path

STUDY_FEATURES = {
    "backbone": "vgg16",
    "weights": None,
    "size": 90,
    "interpolation": "nearest",
    "input_scale": "native",
    "engine": None,
    "precision": None,
    "mirrored": True,
    "crop": None,
    "hand_model": None,
}
STUDY_MLP = {
    "hidden": (256, 128),
    "batch_size": 32,
    "learning_rate": 0.01,
    "decay_rate": 0.9,
    "decay_steps": 10_000,
    "patience": 0,
}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def load_error(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    return str(caught.value)


class TestReader:
    def test_named_where_a_recipe_has_another_backbone_it_sees_as_it_was_taught(self) -> None:
        recipe = override(load_recipe("real"), {"features.backbone": "reader", "fine_tuning.enabled": True})
        assert (recipe.head.kind, recipe.features.size, recipe.features.interpolation) == ("own", None, None)
        assert (recipe.features.precision, recipe.fine_tuning.learning_rate) == ("float32", 0.002)

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"features.size": 128}, "which has its own"),
            ({"features.input_scale": "unit"}, "which has its own"),
            ({"fine_tuning.enabled": False}, "has not been taught"),
            ({"features.backbone": "vgg16"}, "which alone answers with letters"),
            (
                {"fine_tuning.rotation": 5.0},
                "fine_tuning.rotation = 5.0 has no effect .* is taught in scenes of its own",
            ),
            ({"fine_tuning.mirrored": False}, "fine_tuning.mirrored = False has no effect"),
        ],
    )
    def test_what_would_do_nothing_or_harm_is_refused(self, values: dict[str, Any], reason: str) -> None:
        with pytest.raises(RecipeError, match=reason):
            override(load_recipe("reader"), values)


class TestTheStudy:
    def test_both_runs_are_in_the_box(self) -> None:
        assert names() == ["fusion", "reader", "real", "synthetic"]

    @pytest.mark.parametrize("name", ["real", "synthetic"])
    def test_what_both_share(self, name: str) -> None:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.seed == 0
        assert asdict(recipe.features) == STUDY_FEATURES
        assert recipe.head.kind == "mlp"
        assert asdict(recipe.head.mlp) == {**STUDY_MLP, "epochs": recipe.head.mlp.epochs}
        assert recipe.split.validation == 0.2
        assert not recipe.split.reference_leak

    def test_real(self) -> None:
        recipe = load_recipe("real")
        assert (recipe.split.protocol, recipe.split.test_per_class) == ("first-per-class", 100)
        assert (recipe.split.sample, recipe.head.mlp.epochs) == (26_000, 5)

    def test_synthetic(self) -> None:
        recipe = load_recipe("synthetic")
        assert recipe.split.protocol == "folders"
        assert (recipe.split.sample, recipe.head.mlp.epochs) == (None, 10)

    @pytest.mark.parametrize("name", ["real", "synthetic"])
    def test_the_files_themselves_hold_the_numbers(self, name: str) -> None:
        """A default that changes must not change what the study did."""
        written = tomllib.loads(resources.files("fingerspell.recipes").joinpath(f"{name}.toml").read_text("utf-8"))
        features = {key: value for key, value in STUDY_FEATURES.items() if value is not None}
        assert written["features"] == features
        assert written["head"]["kind"] == "mlp"
        assert written["head"]["mlp"].keys() == {*STUDY_MLP, "epochs"}
        assert written["split"]["validation"] == 0.2

    def test_defaults_are_those_of_the_real_run(self) -> None:
        real, default = load_recipe("real"), Recipe("any")
        assert default.head == real.head
        assert default.features.backbone == real.features.backbone
        assert default.features.input_scale == real.features.input_scale
        assert default.features.mirrored == real.features.mirrored
        assert replace(default.split, sample=26_000) == real.split  # all pictures, unless a recipe says otherwise


class TestFiles:
    @pytest.mark.parametrize("name", ["real", "synthetic"])
    def test_what_is_written_down_reads_back_the_same(self, tmp_path: Path, name: str) -> None:
        recipe = load_recipe(name)
        assert load_recipe(write(tmp_path / "written.toml", recipe.to_toml())) == recipe

    def test_every_value_that_is_set_reads_back_the_same(self, tmp_path: Path) -> None:
        values = {
            "seed": 7,
            "split.protocol": "groups",
            "split.groups": "who.csv:signer",
            "split.sample": 5,
            "features.weights": "a.safetensors",
            "features.size": 224,
            "features.interpolation": "bicubic",
            "head.kind": "linear",
            "head.linear.strengths": (0.5, 2.0),
            "head.mlp.hidden": (),
        }
        recipe = override(Recipe("mine"), values)
        assert load_recipe(write(tmp_path / "written.toml", recipe.to_toml())) == recipe

    def test_what_is_written_down_is_complete(self) -> None:
        written = tomllib.loads(load_recipe("real").to_toml())
        assert written["split"].keys() == asdict(SplitOptions()).keys() - {  # None is left out
            *("groups", "guard", "held_out", "per_group")
        }
        assert written["head"]["linear"]["strengths"] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]

    def test_a_file_may_leave_out_what_has_a_default(self, tmp_path: Path) -> None:
        assert load_recipe(write(tmp_path / "short.toml", 'name = "short"\n[split]\nsample = 7\n')) == Recipe(
            "short", split=SplitOptions(sample=7)
        )

    def test_nothing_can_be_changed_afterwards(self) -> None:
        with pytest.raises(FrozenInstanceError):
            load_recipe("real").seed = 1  # type: ignore[misc]

    @pytest.mark.parametrize("name", ["rael", "missing.toml", "", "../real", "real.toml"])
    def test_unknown_name(self, name: str) -> None:
        assert (
            load_error(name) == f"no recipe {name!r}. Expected one of fusion, reader, real, synthetic, or a .toml file."
        )

    def test_a_file_with_another_suffix_is_not_read(self, tmp_path: Path) -> None:
        assert load_error(write(tmp_path / "recipe.txt", 'name = "x"')).endswith("or a .toml file.")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("name = ", "not a TOML file (Invalid value (at end of document))."),
            ("<html>", "not a TOML file (Invalid statement (at line 1, column 1))."),
            ("seed = 1", "name is missing. Add that value."),
            ('name = "a/b"', "name = 'a/b': String should match pattern '^[\\w.-]+$'. Correct that value."),
            (
                'name = "x"\nsede = 1',
                "sede is unknown; expected one of name, seed, split, features, fine_tuning, head, risk. Correct that",
            ),
            (
                'name = "x"\n[head]\nkind = "mlp"\n[head.mlp]\nepoch = 5',
                "head.mlp.epoch is unknown; expected one of hidden, epochs, batch_size, learning_rate, decay_rate,",
            ),
            ('name = "x"\nsplit = 3', "split = 3: Input should be a dictionary or an instance of SplitOptions."),
        ],
    )
    def test_what_is_wrong_in_a_file_is_told_with_its_place(self, tmp_path: Path, text: str, reason: str) -> None:
        path = write(tmp_path / "bad.toml", text)
        assert load_error(path).startswith(f"{path}: {reason}")

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.toml"
        path.write_bytes(b'name = "\xff"')
        assert load_error(str(path)).startswith(f"{path}: not a TOML file ('utf-8' codec")


OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("seed", -1, "Input should be greater than or equal to 0"),
    (
        "split.protocol",
        "rondom",
        "Input should be 'first-per-class', 'folders', 'random', 'blocks', 'bursts', 'groups' or 'leave-one-group-out'",
    ),
    ("split.test_per_class", 0, "Input should be greater than or equal to 1"),
    ("split.folds", 1, "Input should be greater than or equal to 2"),
    ("split.fold", -1, "Input should be greater than or equal to 0"),
    ("split.guard", -1, "Input should be greater than or equal to 0"),
    ("split.sample", 0, "Input should be greater than or equal to 1"),
    ("split.sample", "many", "Input should be a valid integer"),
    ("split.sample", 2.5, "Input should be a valid integer"),
    ("split.validation", 0.0, "Input should be greater than 0"),
    ("split.validation", 1.0, "Input should be less than 1"),
    ("features.size", 15, "Input should be greater than or equal to 16"),
    ("features.size", 4096, "Input should be less than or equal to 2048"),
    ("features.interpolation", "cubic", "Input should be 'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
    ("features.input_scale", "zero-one", "Input should be 'native' or 'unit'"),
    ("fine_tuning.epochs", 0, "Input should be greater than or equal to 1"),
    ("fine_tuning.batch_size", 1, "Input should be greater than or equal to 2"),
    ("fine_tuning.learning_rate", 0.0, "Input should be greater than 0"),
    ("fine_tuning.layer_decay", 1.5, "Input should be less than or equal to 1"),
    ("fine_tuning.rotation", 90.0, "Input should be less than or equal to 45"),
    ("fine_tuning.precision", "int8", "Input should be 'float32' or 'bfloat16'"),
    ("head.kind", "svm", "Input should be 'mlp', 'linear', 'points', 'fusion' or 'own'"),
    ("head.mlp.epochs", 0, "Input should be greater than or equal to 1"),
    ("head.mlp.batch_size", 1, "Input should be greater than or equal to 2"),
    ("head.mlp.learning_rate", 0.0, "Input should be greater than 0"),
    ("head.mlp.learning_rate", float("inf"), "Input should be a finite number"),
    ("head.mlp.learning_rate", float("nan"), "Input should be a finite number"),
    ("head.mlp.decay_rate", 1.1, "Input should be less than or equal to 1"),
    ("head.mlp.patience", -1, "Input should be greater than or equal to 0"),
    ("head.linear.strengths", (), "Tuple should have at least 1 item"),
]


class TestOverride:
    def test_dotted_names_reach_every_depth_and_leave_the_rest(self) -> None:
        real = load_recipe("real")
        changed = override(real, {"seed": 3, "split.sample": 500, "head.mlp.epochs": 2})
        assert (changed.seed, changed.split.sample, changed.head.mlp.epochs) == (3, 500, 2)
        assert override(changed, {"seed": 0, "split.sample": 26_000, "head.mlp.epochs": 5}) == real

    def test_the_recipe_itself_is_not_changed(self) -> None:
        real = load_recipe("real")
        override(real, {"split.sample": 500})
        assert real == load_recipe("real")

    def test_none_keeps_the_value(self) -> None:
        real = load_recipe("real")
        assert override(real, {"split.sample": None, "head.kind": None, "features.size": None}) == real

    def test_false_and_zero_are_values(self) -> None:
        changed = override(
            load_recipe("real"), {"features.mirrored": False, "split.protocol": "blocks", "split.guard": 0}
        )
        assert (changed.features.mirrored, changed.split.guard) == (False, 0)

    @pytest.mark.parametrize(("name", "value", "reason"), OUT_OF_RANGE, ids=lambda value: str(value)[:30])
    def test_a_value_out_of_range_is_refused(self, name: str, value: object, reason: str) -> None:
        with pytest.raises(RecipeError) as caught:
            override(load_recipe("real"), {name: value})
        assert str(caught.value).startswith(f"{name} = {value!r}: {reason}")
        assert str(caught.value).endswith("Correct that value.")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("split.sampel", "split.sampel is unknown; expected one of protocol, test_per_class, folds,"),
            ("spilt.sample", "spilt is unknown; expected one of name, seed, split, features, fine_tuning, head, risk."),
            ("head.mpl.epochs", "head.mpl is unknown; expected one of kind, mlp, linear, points, fusion."),
        ],
    )
    def test_an_unknown_name_is_refused(self, name: str, reason: str) -> None:
        with pytest.raises(RecipeError) as caught:
            override(load_recipe("real"), {name: 5})
        assert str(caught.value).startswith(reason)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"head.kind": "linear", "head.mlp.epochs": 5},
                "head.mlp.epochs = 5 has no effect with head.kind = 'linear': it goes with mlp. Leave one of",
            ),
            ({"head.kind": "linear", "head.mlp.patience": 5}, "head.mlp.patience = 5 has no effect"),
            ({"split.groups": "x.csv"}, "split.groups = 'x.csv' has no effect with split.protocol = 'first-per-class'"),
            ({"split.fold": 1}, "split.fold = 1 has no effect"),
            (
                {"fine_tuning.epochs": 2},
                "fine_tuning.epochs = 2 has no effect with fine_tuning.enabled = False: it goes with True.",
            ),
            ({"split.guard": 1}, "split.guard = 1 has no effect"),
            ({"split.held_out": "anna"}, "split.held_out = 'anna' has no effect"),
            ({"split.protocol": "random", "split.test_per_class": 1}, "split.test_per_class = 1 has no effect"),
        ],
    )
    def test_a_value_without_effect_is_refused(self, values: dict[str, object], message: str) -> None:
        with pytest.raises(RecipeError) as caught:
            override(load_recipe("real"), values)
        assert str(caught.value).startswith(message)

    def test_a_path_through_a_value_is_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"seed.x: seed is a value and no section"):
            override(load_recipe("real"), {"seed.x": 1})

    def test_a_linear_head_without_epochs_is_fine(self) -> None:
        assert override(load_recipe("real"), {"head.kind": "linear", "head.mlp.epochs": None}).head.kind == "linear"


class TestHands:
    def test_hand_landmarks_are_read_by_points(self) -> None:
        changed = override(load_recipe("real"), {"features.backbone": "hand-landmarks"})
        assert changed.head.kind == "points"
        assert looks_for_hands(changed)
        assert not looks_for_hands(load_recipe("real"))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"features.backbone": "hand-landmarks", "head.kind": "mlp"}, r"head.kind = 'mlp' .* expected the head"),
            ({"head.kind": "points"}, r"head.kind = 'points' with features.backbone = 'vgg16'"),
            ({"features.backbone": "hand-landmarks", "features.crop": "hand"}, r"features.crop .* has no effect"),
            (
                {"features.backbone": "hand-landmarks", "fine_tuning.enabled": True},
                r"fine_tuning.enabled .* has no effect",
            ),
            *(
                ({"features.backbone": "hand-landmarks", f"features.{name}": value}, f"features.{name} = .* no effect")
                for name, value in {
                    "weights": "x",
                    "size": 96,
                    "input_scale": "unit",
                    "engine": "torch",
                    "precision": "int8",
                }.items()
            ),
            ({"features.hand_model": "x.task"}, r"features.hand_model has no effect: nothing .* looks for hands"),
        ],
    )
    def test_what_does_not_go_together(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            override(load_recipe("real"), values)
