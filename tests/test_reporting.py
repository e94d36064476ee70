from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fingerspell.alphabet import LETTERS
from fingerspell.errors import RunError
from fingerspell.figures import (
    PredictionRow,
    confusion_figure,
    curves_figure,
    mistakes_figure,
    per_letter_figure,
    png,
    thumbnail,
    worst_mistakes,
)
from fingerspell.reporting import write_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

VOID = {"meta", "img", "link", "br", "hr", "input"}
CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


class Page(HTMLParser):
    """Holds a page's elements and its text; fails when an element is closed out of turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.elements if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources]


def score(accuracy: float) -> dict[str, Any]:
    return {
        "pictures": 2600,
        "groups": 321,
        "near_copies": 0.987,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.016, accuracy + 0.015],
        "macro_f1": accuracy - 0.1,
        "macro_f1_interval": [accuracy - 0.12, accuracy - 0.08],
    }


def metrics(labels: Sequence[str]) -> dict[str, Any]:
    average = {"precision": 0.811, "recall": 0.822, "f1": 0.833, "support": 2600}
    return {
        "measured_on": "2,600 test pictures of asl_alphabet.zip, split first-per-class",
        "model": "real-1a2b3c4d",
        "labels": list(labels),
        "scores": {
            "letters": score(0.7961),
            "static_letters": score(0.8234),
        },
        "conditions": {
            "original": {"letters": score(0.7654), "static_letters": score(0.7987)},
            "mirrored": {"letters": score(0.6543), "static_letters": score(0.6789), "difference": [-0.123, -0.045]},
        },
        "calibration": {
            "temperature": 1.37,
            "threshold": 0.42,
            "risk": 0.05,
            "error": 0.0123,
            "error_at_temperature_1": 0.0777,
            "named": 0.876,
            "wrong_of_named": 0.0543,
            "others": {"nothing": {"pictures": 50, "named": 7}},
            "reliability": [[0.3, 0.2, 0.4], [0.9, 0.95, 0.6]],
            "risk_coverage": [[0.1, 0.0, 0.99], [1.0, 0.2, 0.1]],
        },
        "per_letter": [{**average, "letter": letter, "support": 100} for letter in labels],
        "macro_average": average,
        "weighted_average": average,
        "confused_pairs": [
            {"letter": "U", "taken_for": "R", "pictures": 12, "share": 0.12},
            {"letter": "B", "taken_for": "X", "pictures": 7, "share": 0.07},
        ],
        "confusion": (np.eye(len(labels), dtype=int) * 88 + 1).tolist(),
        "split": {
            "protocol": "first-per-class",
            "train": 20800,
            "validation": 5200,
            "test": 2600,
            "reference_leak": False,
            "duplicates_dropped": 17,
            "notes": ["frames <b>of one</b> video"],
        },
        "unreadable": 3,
        "remarks": ["Weakest letters: <U> & R."],
    }


def history(steps: Sequence[float] = (1, 2, 3), step: str = "epoch") -> list[dict[str, float]]:
    return [
        {step: value, **dict.fromkeys(CURVES, 1 / place), "kept": float(place == 1)}
        for place, value in enumerate(steps, 1)
    ]


def prediction(name: str, label: str, predicted: str, probability: float) -> dict[str, Any]:
    return {
        "id": name,
        "label": label,
        "predicted": predicted,
        "probability": probability,
        "runner_up": label,
        "runner_up_probability": 1 - probability,
    }


PREDICTIONS = [prediction("a/<img src=x>.jpg", "A", "S", 0.987), prediction("b.jpg", "B", "B", 0.9)]
FEW = ("A", "B", "J", "U")
RECIPE = """name = "real"
made = 2024-01-02
[backbone]
views = ["original", "mirrored"]
[head.mlp]
epochs = 5
"""


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data), "utf-8")


def write_run(folder: Path, labels: Sequence[str]) -> Path:
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    (folder / "report.txt").write_text("  precision <recall>\n", "utf-8")
    write_json(folder / "metrics.json", metrics(labels))
    write_json(folder / "timing.json", {"stages": {"features": 1420.4}, "pictures_decoded": 28600})
    write_csv(folder / "history.csv", history())
    write_csv(folder / "predictions.csv", PREDICTIONS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete run, of few letters so that its figures are drawn fast."""
    return write_run(tmp_path, FEW)


def open_picture(name: str) -> NDArray[np.uint8]:
    return np.full((40, 30 + len(name), 3), (200, 30, 30), dtype=np.uint8)


class Report(NamedTuple):
    folder: Path
    html: str
    page: Page


def report(folder: Path, pictures: bool = True) -> Report:
    html = write_report(folder, open_picture if pictures else None).read_text("utf-8")
    return Report(folder, html, Page(html))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a complete run of 26 letters; not to be changed."""
    return report(write_run(tmp_path_factory.mktemp("full"), LETTERS))


def pixels(figure: Figure) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB"))


def texts(figure: Figure) -> list[str]:
    """Every text drawn in a figure's first panel, without axes."""
    return [text.get_text() for text in figure.axes[0].texts]


def test_page_holds_the_numbers(full: Report) -> None:
    for expected in (
        "real-1a2b3c4d",
        "2,600 test pictures of asl_alphabet.zip",
        "Accuracy, 26 letters",
        "0.796",
        "[0.780, 0.811]",
        "Accuracy, 24 static letters",
        "0.823",
        "0.696",  # macro F1
        "[0.676, 0.716]",
        "0.654",  # mirrored
        "0.679",
        "0.765",  # the same pictures as they are
        "-0.123 to -0.045",
        "321 bursts of near-copies",
        "98.7% of the test pictures have a near-copy",
        "at least 0.42",
        "names 87.6% of the test pictures, and 5.4% of those wrongly",
        "7 of 50 of nothing",
        "Weakest letters: <U> & R.",
        "index and middle finger up",  # why U and R look alike
        "0.120",
        "J (moves)",
        "weighted average",
        "a/<img src=x>.jpg",
        "0.987",
        "first-per-class",
        "20,800",
        "17",
        "frames <b>of one</b> video",
        "unreadable pictures",
        '["original", "mirrored"]',
        "head.mlp",
        RECIPE,
        "0:23:40",
        "Pictures decoded: 28,600.",
        "  precision <recall>",
    ):
        assert expected in full.page.text, expected


def test_page_is_one_file_and_needs_no_other(full: Report) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in full.page.elements}
    assert not re.search(r"https?://|url\(|@import", full.html)
    for _, attributes in full.page.elements:
        assert "href" not in attributes
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")


def test_page_embeds_the_figures_that_lie_beside_it(full: Report) -> None:
    names = ("curves", "calibration", "confusion", "per_letter", "mistakes")
    beside = [Image.open(full.folder / "figures" / f"{name}.png") for name in names]
    assert [image.tobytes() for image in full.page.images()] == [image.tobytes() for image in beside]
    assert all(image.format == "PNG" for image in beside)
    assert all(attributes["alt"] for tag, attributes in full.page.elements if tag == "img")


def test_page_escapes_what_it_quotes(full: Report) -> None:
    assert "<img src=x>" not in full.html
    assert "<b>" not in full.html
    assert len(full.page.images()) == 5


def test_second_report_is_the_same_byte_for_byte(folder: Path) -> None:
    def written() -> dict[Path, bytes]:
        write_report(folder, open_picture)
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert written() == written()


def test_evaluation_without_pictures(folder: Path) -> None:
    content = metrics(FEW)
    del content["split"], content["remarks"], content["conditions"], content["calibration"]
    content["scores"] = {"letters": score(0.5)}
    write_json(folder / "metrics.json", content)
    for name in ("recipe.toml", "history.csv", "timing.json"):
        (folder / name).unlink()
    page = report(folder, pictures=False).page
    for expected in (
        "There are no curves",
        "No split was made",
        "An evaluation follows no recipe",
        "No times were recorded.",
        "give no cause for remarks",
        "the pictures were not at hand",
        "a/<img src=x>.jpg",
    ):
        assert expected in page.text, expected
    assert "static letters" not in page.text.partition("What these numbers mean")[0]
    assert "conditions" not in page.text
    assert {path.name for path in (folder / "figures").iterdir()} == {"confusion.png", "per_letter.png"}
    assert len(page.images()) == 2


def test_run_without_mistakes(folder: Path) -> None:
    write_csv(folder / "predictions.csv", PREDICTIONS[1:])
    content = metrics(FEW) | {"confused_pairs": []}
    content["per_letter"][0]["support"] = 0
    write_json(folder / "metrics.json", content)
    html, page = report(folder)[1:]
    assert "every test picture was recognised" in page.text
    assert "No letter was taken for another." in page.text
    assert "Accuracy, 3 letters" in page.text  # those with test pictures
    assert "Accuracy, 2 static letters" in page.text
    assert 'class="alarm"' not in html


def test_leak_is_loud(folder: Path) -> None:
    content = metrics(FEW)
    content["split"]["reference_leak"] = True
    content["remarks"] = ["Do not quote this score.", "Another remark."]
    write_json(folder / "metrics.json", content)
    html = report(folder, pictures=False).html
    assert html.count('class="alarm"') == 1
    assert '<li class="alarm">Do not quote this score.</li>' in html


# Mistakes


def wrong(name: str, label: str, predicted: str, probability: float) -> PredictionRow:
    return PredictionRow.model_validate(prediction(name, label, predicted, probability))


def test_worst_mistakes_are_the_surest_and_of_many_kinds() -> None:
    rows = [wrong(f"u{place}", "U", "R", 0.9 + place / 1000) for place in range(10)]
    rows += [wrong("r", "R", "U", 0.99), wrong("right", "A", "A", 1.0), wrong("n", "N", "M", 0.5)]
    assert [row.id for row in worst_mistakes(rows)] == ["r", "u9", "u8", "u7", "n"]


def test_worst_mistakes_are_at_most_24_and_ordered_by_id_when_equally_sure() -> None:
    rows = [wrong(label + answer, label, answer, 0.8) for label in "ZYXW" for answer in LETTERS if answer != label]
    ids = [row.id for row in worst_mistakes(rows)]
    assert ids == sorted(row.id for row in rows)[:24]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (6, 6, 1), (7, 6, 2)])
def test_mistakes_figure_shows_every_picture(count: int, columns: int, rows: int) -> None:
    asked: list[str] = []

    def picture(name: str) -> NDArray[np.uint8]:
        asked.append(name)
        return open_picture(name)

    pictures = {str(place): thumbnail(picture(str(place))) for place in range(count)}
    figure = mistakes_figure([wrong(name, "A", "S", 0.987) for name in pictures], pictures)
    assert asked == [str(place) for place in range(count)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["A → S  0.99"] * count
    drawn = pixels(figure)
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(1.6 * columns / (1.9 * rows), rel=0.02)
    red = (drawn == (200, 30, 30)).all(axis=2).mean()
    assert red > 0.25 * count / (columns * rows)


# Figures


def test_curves_of_one_row() -> None:
    for rows in (history([1]), history([1], "strength")):
        assert [len(np.asarray(line.get_xdata())) for line in curves_figure(rows).axes[0].lines[:2]] == [1, 1]


def test_curves_of_epochs() -> None:
    figure = curves_figure(history())
    loss, accuracy = figure.axes
    assert (loss.get_title("left"), accuracy.get_title("left")) == ("Loss", "Accuracy")
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    assert list(np.asarray(loss.lines[0].get_xdata())) == [1, 2, 3]
    assert loss.get_xlabel() == "epoch"
    assert pixels(figure).shape == (540, 1350, 3)


def test_curves_of_strengths_mark_the_chosen_one() -> None:
    rows = history([100, 1, 0.01], "strength")  # accuracies 1, 1/2, 1/3
    loss, _ = curves_figure(rows).axes
    train, _, chosen = loss.lines
    assert loss.get_xscale() == "log"
    assert list(np.asarray(train.get_xdata())) == [0.01, 1, 100]
    assert chosen.get_label() == "chosen"
    assert list(np.asarray(chosen.get_xdata())) == [100, 100]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_curves_of_a_diverged_run_are_drawn(bad: float) -> None:
    for rows in (history([1]), history([0.1, 1], "strength")):
        rows[-1]["train_loss"] = bad
        assert pixels(curves_figure(rows)).std() > 1


def test_confusion_shades_by_row_and_writes_counts() -> None:
    figure = confusion_figure(["A", "B", "C"], [[9, 1, 0], [0, 1500, 500], [0, 0, 0]])
    axes = figure.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    assert shares.tolist() == [[0.9, 0.1, 0], [0, 0.75, 0.25], [0, 0, 0]]
    assert texts(figure) == ["9", "1", "1500", "500"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "white", "black"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B", "C"]


@pytest.mark.parametrize("size", [1, 24, 26])
def test_confusion_of_any_number_of_labels(size: int) -> None:
    figure = confusion_figure(LETTERS[:size], np.eye(size, dtype=int).tolist())
    width, height = figure.get_size_inches()
    assert 5 <= height < width < 11
    assert len(texts(figure)) == size


def test_confusion_counts_stay_in_their_cells() -> None:
    figure = confusion_figure(LETTERS, np.diag([999, 99999] * 13).tolist())
    png(figure)
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / 26
    assert max(text.get_window_extent().width for text in axes.texts) < cell


def test_per_letter_marks_the_letters_that_move() -> None:
    figure = per_letter_figure({"A": 0.5, "J": 0.25, "Z": 1.0}, 0.583)
    bars = figure.axes[0].patches
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, True]
    assert texts(figure) == ["0.50", "0.25", "1.00"]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mean 0.583", "moves: a still shows its start only"]
    assert pixels(figure).shape == (510, 1350, 3)


def test_per_letter_without_moving_letters() -> None:
    legend = per_letter_figure({"A": 0.5}, 0.5).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mean 0.500"]


# Bad input


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv", "report.txt"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=r"is missing: a report needs metrics\.json.*Name the folder") as caught:
        write_report(folder)
    assert str(folder / name) in str(caught.value)
    assert not (folder / "report.html").exists()


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", "Invalid JSON"),
        ("metrics.json", "[]", r"the whole: .*found '\[\]'"),
        ("metrics.json", "{}", r"measured_on: Field required, found '\{\}' \(and 8 more\)"),
        ("predictions.csv", "", "at least 1 item"),
        ("predictions.csv", "id,label\na,A\n", r"0\.predicted: Field required"),
        ("predictions.csv", "id,label,predicted,probability\na,A,B,sure\n", r"0\.probability: .*found 'sure'"),
        ("history.csv", "", "columns epoch or strength, .* found no row"),
        ("history.csv", "epoch,train_loss\n1,2\n", "validation_loss are needed.* found epoch, train_loss"),
        ("history.csv", "step," + ",".join(CURVES) + "\n1,1,1,1,1\n", "found step, train_accuracy"),
        ("history.csv", "epoch," + ",".join(CURVES) + "\n1,1,1,1\n", r"0\.validation_accuracy: .*found 'None'"),
        ("recipe.toml", "name = ", "Invalid value"),
        ("timing.json", '{"stages": {"scan": "long"}}', r"stages\.scan: .*found 'long'"),
    ],
)
def test_bad_file(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content, "utf-8")
    with pytest.raises(RunError, match=message) as caught:
        write_report(folder)
    assert str(caught.value).startswith(f"{folder / name} does not hold what a report needs: ")
    assert str(caught.value).endswith("Run the stage again.")


def test_file_that_is_not_text(folder: Path) -> None:
    (folder / "report.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="does not hold what a report needs"):
        write_report(folder)


def test_confusion_that_does_not_fit_the_labels(folder: Path) -> None:
    write_json(folder / "metrics.json", metrics(FEW) | {"confusion": [[1, 2], [3, 4]]})
    with pytest.raises(RunError, match="confusion must have 4 rows and columns"):
        write_report(folder)
