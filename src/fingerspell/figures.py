"""Figures of a report, drawn from numbers that others measured. None touches matplotlib's global state."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from pydantic import BaseModel

from fingerspell.alphabet import MOVING_LETTERS
from fingerspell.remarks import History, chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    OpenPicture = Callable[[str], NDArray[np.uint8]]

# Two colours of Okabe and Ito's palette, which colour-blind readers tell apart (jfly.uni-koeln.de/color).
BLUE, ORANGE = "#0072b2", "#d55e00"
DPI, PHOTO_DPI = 150, 100  # sharp on a telephone and in print; photographs would make most of the page's size
MISTAKES, MISTAKES_PER_PAIR, SHEET_COLUMNS = 24, 3, 6  # neighbouring frames fail alike: three of a kind show enough
SHEET = 24  # pictures on a sheet
THUMBNAIL = 200  # pixels; more would not be seen, and matplotlib takes seconds to shrink one photograph


class PredictionRow(BaseModel):
    """One row of ``predictions.csv``."""

    id: str
    label: str
    predicted: str
    probability: float


def worst_mistakes(predictions: Sequence[PredictionRow]) -> list[PredictionRow]:
    """Wrong predictions with the highest probability first, few of any one letter and answer."""
    wrong = [row for row in predictions if row.label != row.predicted]
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in sorted(wrong, key=lambda row: (-row.probability, row.id)):
        pair = (row.label, row.predicted)
        seen[pair] += 1
        if seen[pair] <= MISTAKES_PER_PAIR:
            kept.append(row)
    return kept[:MISTAKES]


def curves_figure(history: History) -> Figure:
    """Loss and accuracy of training and validation, by epoch or by strength."""
    step = "strength" if "strength" in history[0] else "epoch"
    rows = sorted(history, key=lambda row: row[step])
    figure = Figure(figsize=(9, 3.6), dpi=DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_curves(axes, rows, step, measure)
        if step == "strength":
            axes.set_xscale("log")
            axes.set_xlabel("strength C (larger: less regularised)")
            axes.axvline(chosen(rows)[step], color="0.4", linestyle=":", label="chosen")
        else:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(frameon=False)
    return figure


def _draw_curves(axes: Axes, rows: History, step: str, measure: str) -> None:
    for part, colour, marker, line in (("train", BLUE, "o", "-"), ("validation", ORANGE, "s", "--")):
        values = [row[f"{part}_{measure}"] for row in rows]
        axes.plot([row[step] for row in rows], values, color=colour, marker=marker, linestyle=line, label=part)
    axes.set_title(measure.capitalize(), loc="left")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def calibration_figure(
    reliability: Sequence[tuple[float, float, float]],
    risk_coverage: Sequence[tuple[float, float, float]],
    named: float,
    wrong_of_named: float,
) -> Figure:
    """Accuracy by confidence, and the risk of naming only the surest pictures; the chosen threshold is marked."""
    figure = Figure(figsize=(9, 3.6), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    confidence, accuracy, share = (np.array(column) for column in zip(*reliability, strict=True))
    left.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as it should be")
    left.plot(confidence, accuracy, color=BLUE, label="measured")
    left.scatter(confidence, accuracy, s=10 + 400 * share, color=BLUE)  # area: share of the pictures
    left.set(xlabel="probability of the best letter", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    left.set_title("Reliability", loc="left")
    coverage, risk, _ = (np.array(column) for column in zip(*risk_coverage, strict=True))
    right.plot(coverage, risk, color=BLUE, label="naming the surest")
    right.plot([named], [wrong_of_named], color=ORANGE, marker="o", linestyle="none", label="at the threshold")
    right.set(xlabel="share of the pictures that is named", ylabel="share of them that is wrong", xlim=(0, 1.02))
    right.set_ylim(0, max(0.1, 1.1 * float(risk.max())))
    right.set_title("Risk and coverage", loc="left")
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def confusion_figure(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Figure:
    """Heat map of the confusion matrix: shade is the share of a letter's pictures, figures are counts."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a letter without pictures is a blank row
    side = max(5, 1.8 + 0.31 * len(labels))  # inches; a cell holds three figures
    figure = Figure(figsize=(side + 0.7, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(heat, label="share of the letter's pictures", fraction=0.04, pad=0.02, aspect=40)
    for row, column in np.argwhere(counts):
        count, colour = counts[row, column], "white" if shares[row, column] > 0.5 else "black"
        size = 8 if count < 1000 else 6
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size, in_layout=False)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0, labeltop=True)
    axes.set(xlabel="predicted letter", ylabel="true letter")
    return figure


def matrix_figure(cells: Sequence[Mapping[str, Any]], models: Sequence[str], archives: Sequence[str]) -> Figure:
    """Accuracy of every model (rows) on every data set (columns), 26 letters over 24; own test pictures are framed."""
    values = np.full((len(models), len(archives)), np.nan)
    figure = Figure(figsize=(2.6 + 1.35 * len(archives), 1.5 + 0.75 * len(models)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for cell in cells:
        row, column = models.index(cell["model"]), archives.index(cell["archive"])
        score, static = cell["letters"], cell.get("static_letters")
        values[row, column] = score["accuracy"]
        low, high = score["accuracy_interval"]
        text = f"{score['accuracy']:.2f}\n{low:.2f}-{high:.2f}" + (f"\n24: {static['accuracy']:.2f}" if static else "")
        colour = "white" if score["accuracy"] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        if cell["own"]:
            axes.add_patch(
                Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=ORANGE, linewidth=2)
            )
    heat = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(heat, label="accuracy, 26 letters")
    axes.set_xticks(range(len(archives)), archives)
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(length=0)
    axes.set(xlabel="measured on", ylabel="trained model")
    return figure


def strangers_figure(rows: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> Figure:
    """Accuracy on each group that was held out and on all of them, with intervals, of 26 letters and of 24."""
    named = [*((row["group"], row["scores"]) for row in rows), ("mean over groups", mean["scores"])]
    figure = Figure(figsize=(7.5, 1.2 + 0.45 * len(named)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    styles = {"letters": (BLUE, "o", "26 letters", 0.12), "static_letters": (ORANGE, "s", "24 held still", -0.12)}
    for kind, (colour, marker, label, shift) in styles.items():
        places = [place for place, (_, scores) in enumerate(reversed(named)) if kind in scores]
        found = [scores[kind] for _, scores in reversed(named) if kind in scores]
        values = np.array([score["accuracy"] for score in found])
        ends = np.array([score["accuracy_interval"] for score in found]).reshape(-1, 2).T
        axes.errorbar(
            values,
            np.array(places) + shift,
            xerr=np.abs(ends - values),
            fmt=marker,
            color=colour,
            markersize=5,
            capsize=2,
            label=label,
        )
    axes.set_yticks(range(len(named)), [name for name, _ in reversed(named)])
    axes.set(xlim=(0, 1), xlabel="accuracy on people that were not trained on")
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def per_letter_figure(f1: Mapping[str, float], mean: float) -> Figure:
    """F1 of each letter as bars; the letters that move are hatched."""
    figure = Figure(figsize=(9, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(f1), list(f1.values()), color=BLUE, width=0.75)
    moving = [bar for letter, bar in zip(f1, bars, strict=True) if letter in MOVING_LETTERS]
    for bar in moving:
        bar.set(facecolor="white", edgecolor=ORANGE, hatch="////", label="moves: a still shows its start only")
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps the line of the mean off the numbers
    axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1.5, bbox=ground, zorder=3)
    line = axes.axhline(mean, color="0.3", linestyle="--", linewidth=1, label=f"mean {mean:.3f}")
    axes.legend(handles=[line, *moving[:1]], frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(ylim=(0, 1.08), ylabel="F1", xmargin=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """Picture no larger than it is shown."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def mistakes_figure(mistakes: Sequence[PredictionRow], pictures: Mapping[str, Image.Image]) -> Figure:
    """Sheet of wrongly recognised pictures, each with its letter, the answer and the answer's probability."""
    titles = [f"{mistake.label} → {mistake.predicted}  {mistake.probability:.2f}" for mistake in mistakes]
    return sheet_figure(titles, [pictures[mistake.id] for mistake in mistakes])


def sheet_figure(titles: Sequence[str], pictures: Sequence[Image.Image]) -> Figure:
    """Contact sheet of pictures, each with a title above it."""
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), dpi=PHOTO_DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: matplotlib takes a tenth of a second for each
    axes.set_axis_off()
    for place, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        row, column = divmod(place, columns)
        left, top = 1.6 * column + 0.05, 1.9 * row + 0.3  # inches from the upper left corner; 1.5 for the picture
        scale = 1.5 / max(picture.size)
        width, height = picture.width * scale, picture.height * scale
        middle = left + 0.75
        axes.imshow(picture, extent=(middle - width / 2, middle + width / 2, top + height, top))
        axes.text(middle, top - 0.06, title, fontsize=10, ha="center", va="bottom")
    axes.set(xlim=(0, 1.6 * columns), ylim=(1.9 * rows, 0), aspect="equal")
    return figure


def evidence_figure(titles: Sequence[str], maps: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> Figure:
    """Sheet of pictures (size, size, 3), each beside itself under its map of evidence (size, size)."""
    columns = min(SHEET_COLUMNS // 2, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), dpi=PHOTO_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, (title, (pixels, evidence)) in enumerate(zip(titles, maps, strict=True)):
        row, column = divmod(place, columns)
        left, top = 3.2 * column + 0.05, 1.9 * row + 0.3
        axes.imshow(pixels, extent=(left, left + 1.5, top + 1.5, top))
        grey = pixels.mean(axis=2)
        axes.imshow(grey, extent=(left + 1.55, left + 3.05, top + 1.5, top), cmap="gray", vmin=0, vmax=255)
        shares = evidence / max(float(evidence.max()), 1e-6)
        extent = (left + 1.55, left + 3.05, top + 1.5, top)
        axes.imshow(shares, extent=extent, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * shares)
        axes.text(left + 1.55, top - 0.06, title, fontsize=10, ha="center", va="bottom")
    axes.set(xlim=(0, 3.2 * columns), ylim=(1.9 * rows, 0), aspect="equal")
    return figure


def png(figure: Figure) -> bytes:
    """Figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
