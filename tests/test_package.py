"""What holds for the package as a whole: light import, honest names, one direction, documents that work."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fingerspell
from conftest import REPOSITORY
from fingerspell import cli
from fingerspell.errors import FingerspellError

PACKAGE = REPOSITORY / "src" / "fingerspell"

# The way of the data; a module imports only what stands before it.
FLOW = [
    *("errors", "alphabet", "files", "progress", "streams", "images", "cache", "hands"),
    *("rendering", "archive", "truth", "dataset", "neighbours", "looks", "recipes", "splits", "groups", "inspection"),
    *("heads", "reader", "backbones", "graphs", "engines", "testing", "features", "augmentation", "finetuning"),
    *("scenes", "teaching", "training", "precision"),
    *("model", "exporting", "metrics", "calibration", "remarks", "evaluation", "figures", "reporting", "explanation"),
    *("steps", "runs", "compare", "strangers", "console", "cli", "__main__"),
]


def test_modules_import_only_what_stands_before_them() -> None:
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules == set(FLOW)
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fingerspell":
                steps = (node.module or "").split(".")
                for used in steps[1:2] or [alias.name for alias in node.names]:
                    assert used == own or FLOW.index(used) < FLOW.index(own), f"{path.name} imports {used}"


def test_import_is_light_and_has_no_effects(tmp_path: Path) -> None:
    program = "import sys, fingerspell, fingerspell.cli\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = {
        "torch",
        "timm",
        "onnxruntime",
        "onnx",
        "matplotlib",
        "sklearn",
        "scipy",
        "faiss",
        "PIL",
        "pydantic",
        "numpy",
    }
    assert not heavy & set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", fingerspell.__all__)
def test_exported_names_exist_and_say_what_they_are(name: str) -> None:
    assert getattr(fingerspell, name).__doc__


def test_exported_names_are_those_of_the_map() -> None:
    assert sorted(fingerspell._MODULE_OF) == sorted(fingerspell.__all__)
    assert set(fingerspell.__all__) <= set(dir(fingerspell))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fingerspell.nonsense


def test_every_error_is_in_the_tree_that_is_drawn() -> None:
    from fingerspell import errors

    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {cls.__name__ for cls in FingerspellError.__subclasses__()}


def documents() -> list[str]:
    return [path.read_text() for path in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]]


def test_commands_in_the_documents_exist_with_their_options() -> None:
    """Every `fingerspell ...` line of a code block is parsed by the real command line."""
    import typer

    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = [
        line.strip()
        for text in documents()
        for block in re.findall(r"```(?:bash|console|sh)\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("fingerspell ")
    ]
    assert len(lines) >= 8
    for line in lines:
        verb, *arguments = shlex.split(line, comments=True)[1:]
        if arguments != ["--help"] and verb != "--help":
            verbs[verb].make_context(verb, arguments)


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|`)make (\w+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= set(targets)


def test_python_examples_of_the_readme_compile_and_use_real_names() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"fingerspell\.(\w+)", block):
            assert hasattr(fingerspell, name), name
