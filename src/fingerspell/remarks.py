"""What the curves and the numbers of a run say, in plain language.

One small function a remark: it returns a sentence where the numbers give grounds for it, and None where they do not.
``metrics`` is the content of ``metrics.json``; ``history`` is ``history.csv`` as rows of floats, one an epoch (column
``epoch``) or one a strength tried (column ``strength``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fingerspell.alphabet import LETTERS

_STRANGERS = (
    "With archives of several people, `fingerspell strangers --final` chooses it on hands that are new to the model."
)

Metrics = Mapping[str, Any]
History = Sequence[Mapping[str, float]]

# Letters that share most of a handshape, and what tells them apart. The first group that holds both letters is named.
LOOK_ALIKES = (
    ("AEMNST", "all are fists: only the place of the thumb differs"),
    ("UVRK", "index and middle finger up: spread, joined or crossed"),
    ("GHQ", "all point sideways or down with one or two fingers"),
    ("DF", "the thumb meets a finger while others stand upright"),
    ("COE", "all are rounded hands: they differ in how far they close"),
    ("KP", "one handshape, turned downwards for P"),
    ("HU", "one handshape, turned sideways for H"),
    ("IJ", "one handshape, which J moves: a still shows no movement"),
    ("DZ", "both point with the index finger, which Z moves: a still shows no movement"),
)

# Validation loss moves by about a hundredth of itself between epochs; a rise counts from twice that. The absolute
# floor keeps a loss that is near zero from being called overfitting.
LOSS_MARGIN, LOSS_FLOOR = 0.02, 0.005
LEAST_RISING_EPOCHS = 2  # one bad epoch is noise
LEAST_FALL = 0.01  # of the first loss; a head that learns anything falls further in its first epochs
LEARNT_LOSS = 0.15  # smoothed labels ask for a probability of 0.9, and so for a loss of 0.1: little is left to fall
RISING_STEP = 0.005  # half a point of accuracy: more than one epoch's noise on thousands of pictures
TRAINING_DEFICIT = 0.01  # below this, training and validation accuracy count as equal
MEMORY_GAP = 0.10  # training over validation: one validation picture in ten was learnt only by heart
TEST_GAP = 0.05  # validation over test: beyond the sampling error of a test set of a few hundred pictures
CONDITION_GAP = 0.05  # the same, the picture as it is over the same picture under another condition
RISK_FACTOR = 2  # times the risk that was chosen: beyond what a few hundred pictures can be wrong by chance
HARDLY = 0.01  # of pictures that get a letter: a recogniser that is silent
LEAK = 0.05  # of the test pictures have a near-copy in training: as many as could move a score by a few points
WIDE_INTERVAL = 0.10  # two models five points apart cannot be told from each other
FEW_PER_LETTER = 30  # an accuracy of 0.8 measured on 30 pictures is uncertain by 0.14 either way
WEAK_BY = 0.15  # F1 below the mean of the letters
WEAK_LETTERS = 3  # as many as a reader remembers
PAIR_SHARE, PAIR_PICTURES = 0.05, 3  # a twentieth of a letter's pictures, and not one or two odd ones


def remarks(metrics: Metrics, history: History | None = None) -> list[str]:
    """Every remark that the numbers of a run give grounds for.

    Parameters
    ----------
    metrics : Mapping
        The content of ``metrics.json``.
    history : Sequence of Mapping, optional
        The rows of ``history.csv`` as floats; None or empty for an evaluation, which trains nothing.

    Returns
    -------
    list of str
        Sentences; what forbids trusting the score comes first, then the curves, then the letters.
    """
    found = [remark(metrics) for remark in (reference_leak, near_copies_in_training, wide_interval)]
    if history:
        found += [*_curve_remarks(history), validation_above_test(metrics, history)]
    found += [
        remark(metrics)
        for remark in (
            *(hardly_names, risk_not_kept, letter_without_letter, weak_conditions),
            *(letters_absent, few_per_letter, never_predicted, worst_letters, confused_pair),
        )
    ]
    return [sentence for sentence in found if sentence]


def chosen(history: History) -> Mapping[str, float]:
    """Row that stands for the model: the one marked ``kept``."""
    return next(row for row in history if row["kept"])


def look_alike(one: str, other: str) -> str | None:
    """Why two letters are known to look alike, or None."""
    return next((reason for group, reason in LOOK_ALIKES if one in group and other in group), None)


# The run as a whole


def reference_leak(metrics: Metrics) -> str | None:
    """Warn that the test pictures were in the training pool."""
    if not (metrics.get("split") or {}).get("reference_leak"):
        return None
    return (
        "Do not quote this score: the test pictures were allowed into training. "
        "This score is the study's mistake, not a measure."
    )


def near_copies_in_training(metrics: Metrics) -> str | None:
    """Warn that the test pictures are hardly new."""
    share = metrics["scores"]["letters"].get("near_copies")
    if not share or share <= LEAK:
        return None
    return (
        f"FS003 near-copies across the split: {share:.0%} of the test pictures have a near-copy of the same letter in "
        "training, so that this is a score of memory more than of recognition. Use --split bursts or --split blocks, "
        "or measure on other people's pictures (`fingerspell evaluate`)."
    )


def wide_interval(metrics: Metrics) -> str | None:
    """Warn of too few test pictures for a firm accuracy."""
    score = metrics["scores"]["letters"]
    low, high = score["accuracy_interval"]
    if high - low <= WIDE_INTERVAL:
        return None
    return (
        f"Few independent test pictures ({score['pictures']:,} in {score['groups']:,} bursts): the accuracy may well "
        f"lie anywhere from {low:.3f} to {high:.3f}. Small differences between models cannot be seen with them."
    )


def risk_not_kept(metrics: Metrics) -> str | None:
    """Warn that more of the named letters are wrong than the threshold was chosen for."""
    found = metrics.get("calibration")
    if not found or found["wrong_of_named"] <= RISK_FACTOR * found["risk"]:
        return None
    return (
        f"Of the letters that are named {found['wrong_of_named']:.0%} are wrong, where {found['risk']:.0%} were to be: "
        f"the threshold was chosen on easier pictures than these. {_STRANGERS}"
    )


def hardly_names(metrics: Metrics) -> str | None:
    """Warn that the threshold lets a letter be named on next to no picture."""
    found = metrics.get("calibration")
    if not found or found["named"] >= HARDLY:
        return None
    return (
        f"A letter is named on {found['named']:.1%} of the pictures: on validation no lower threshold kept the risk of "
        f"{found['risk']:.0%}, of wrong letters or of pictures of no letter that get one. The likeliest letter is told "
        "in any case. A better model, more validation pictures or a higher `risk` in the recipe let it name more."
    )


def letter_without_letter(metrics: Metrics) -> str | None:
    """Warn that pictures of no letter get one."""
    found = metrics.get("calibration")
    if not found:
        return None
    pictures, named = (sum(kind[key] for kind in found["others"].values()) for key in ("pictures", "named"))
    if named <= RISK_FACTOR * found["risk"] * pictures:
        return None
    return (
        f"Of {pictures} pictures of no letter {named / pictures:.0%} get one: the threshold was chosen on other "
        f"pictures. {_STRANGERS}"
    )


def weak_conditions(metrics: Metrics) -> str | None:
    """Tell under which conditions the same pictures are recognised worse, and not by chance."""
    conditions = metrics.get("conditions") or {}
    original = conditions.get("original", {}).get("letters", {}).get("accuracy", 0)
    worse = {
        name: scores["letters"]["accuracy"]
        for name, scores in conditions.items()
        if name != "original"
        and original - scores["letters"]["accuracy"] > CONDITION_GAP
        and scores["difference"][1] < 0
    }
    if not worse:
        return None
    listed = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in sorted(worse.items(), key=lambda item: item[1]))
    advice = " If training saw no mirrored pictures, let it." if "mirrored" in worse else ""
    return f"The same pictures under other conditions are recognised worse: {listed}, against {original:.3f}.{advice}"


def validation_above_test(metrics: Metrics, history: History) -> str | None:
    """Warn that the validation pictures were easier than the test pictures."""
    score = metrics["scores"]["letters"]
    validation, test = chosen(history)["validation_accuracy"], score["accuracy"]
    if not validation > max(test + TEST_GAP, score["accuracy_interval"][1]):
        return None
    return (
        f"Validation accuracy reached {validation:.3f} but test accuracy {test:.3f}: the validation "
        "pictures are nearer to the training pictures than the test pictures are, as neighbours in one film would be."
    )


# The curves


def _curve_remarks(history: History) -> list[str | None]:
    if diverged := loss_not_finite(history):
        return [diverged]  # no other remark means anything on such curves
    if "strength" in history[0]:
        return [remark(history) for remark in (strength_at_edge, memorised, training_below_validation)]
    curve_remarks = (loss_not_falling, overfitting, still_rising, memorised, training_below_validation)
    return [remark(history) for remark in curve_remarks]


def loss_not_finite(history: History) -> str | None:
    """Warn that a loss became infinite or undefined."""
    for row in history:
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["validation_loss"])):
            step, value = next(iter(row.items()))
            return f"The loss is not a finite number at {step} {value:g}: training diverged. Lower the learning rate."
    return None


def loss_not_falling(history: History) -> str | None:
    """Warn that training learnt nothing."""
    first, last = history[0]["train_loss"], history[-1]["train_loss"]
    if len(history) == 1 or last < first * (1 - LEAST_FALL) or last < LEARNT_LOSS:
        return None
    return (
        f"Training loss did not fall ({first:.3f} at first, {last:.3f} at last): "
        "the learning rate is probably far too high or far too low."
    )


def overfitting(history: History) -> str | None:
    """Warn that validation loss turned and stayed up while training loss fell on."""
    losses = [row["validation_loss"] for row in history]
    best = losses.index(min(losses))
    limit = losses[best] + max(losses[best] * LOSS_MARGIN, LOSS_FLOOR)
    start = len(losses)  # of the rise that lasts to the end
    while losses[start - 1] > limit:
        start -= 1
    falling = history[-1]["train_loss"] < history[best]["train_loss"]
    # A rise is one after the minimum: `start` stops above `best`, whose loss is below the limit.
    if len(losses) - start < LEAST_RISING_EPOCHS or not falling:
        return None
    return (
        f"Validation loss rises from epoch {history[start]['epoch']:g} while training loss falls: overfitting. "
        f"It was lowest at epoch {history[best]['epoch']:g}, which early stopping (patience) would keep."
    )


def still_rising(history: History) -> str | None:
    """Tell that training was stopped before validation accuracy settled."""
    accuracies = [row["validation_accuracy"] for row in history]
    if len(accuracies) == 1 or accuracies[-1] - max(accuracies[:-1]) < RISING_STEP or overfitting(history):
        return None
    return "Validation accuracy was still rising at the last epoch: more epochs may help."


def memorised(history: History) -> str | None:
    """Warn that the training pictures are known much better than the validation pictures."""
    row = chosen(history)
    if not row["train_accuracy"] - row["validation_accuracy"] > MEMORY_GAP:
        return None
    return (
        f"Training accuracy is {row['train_accuracy']:.3f} but validation accuracy {row['validation_accuracy']:.3f}: "
        "part of the training pictures was learnt by heart. More varied pictures or stronger regularisation may help."
    )


def training_below_validation(history: History) -> str | None:
    """Warn that the validation pictures flatter; both parts are measured alike, with the head at rest."""
    row = chosen(history)
    if not row["validation_accuracy"] - row["train_accuracy"] > TRAINING_DEFICIT:
        return None
    return (
        f"Training accuracy ({row['train_accuracy']:.3f}) is below validation accuracy "
        f"({row['validation_accuracy']:.3f}): the validation pictures may just be easier."
    )


def strength_at_edge(history: History) -> str | None:
    """Tell that the best strength may lie outside the range tried."""
    strengths = sorted(row["strength"] for row in history)
    best = chosen(history)["strength"]
    if len(strengths) == 1 or best not in (strengths[0], strengths[-1]):
        return None
    edge = "smallest" if best == strengths[0] else "largest"
    return f"The chosen strength, {best:g}, is the {edge} that was tried: a wider range may hold a better one."


# The letters


def letters_absent(metrics: Metrics) -> str | None:
    """Name the letters without a test picture."""
    tested = {row["letter"] for row in metrics["per_letter"] if row["support"]}
    absent = [letter for letter in LETTERS if letter not in tested]
    if not absent:
        return None
    return f"No test pictures of {', '.join(absent)}: the figures say nothing about {_these(absent)}."


def few_per_letter(metrics: Metrics) -> str | None:
    """Name the letters with too few test pictures for figures of their own."""
    tested = [row for row in metrics["per_letter"] if row["support"]]
    few = [f"{row['letter']} ({row['support']})" for row in tested if row["support"] < FEW_PER_LETTER]
    if not few:
        return None
    if len(few) == len(tested):
        return f"No letter has {FEW_PER_LETTER} test pictures or more: the figures of single letters are rough."
    return f"Fewer than {FEW_PER_LETTER} test pictures of {', '.join(few)}: the figures of {_these(few)} are rough."


def never_predicted(metrics: Metrics) -> str | None:
    """Name the letters that were tested and not once given as an answer."""
    confusion = metrics["confusion"]
    answers = [sum(column) for column in zip(*confusion, strict=True)]
    never = [
        letter
        for letter, row, answered in zip(metrics["labels"], confusion, answers, strict=True)
        if sum(row) and not answered
    ]
    return f"Never given as an answer: {', '.join(never)}." if never else None


def worst_letters(metrics: Metrics) -> str | None:
    """Name the letters that stand out as weak."""
    mean = metrics["scores"]["letters"]["macro_f1"]
    weak = [row for row in metrics["per_letter"] if row["support"] and row["f1"] < mean - WEAK_BY]
    weak.sort(key=lambda row: (row["f1"], row["letter"]))
    if not weak:
        return None
    named = ", ".join(f"{row['letter']} (F1 {row['f1']:.3f})" for row in weak[:WEAK_LETTERS])
    return f"Weakest letters: {named}; the mean of all letters is {mean:.3f}."


def confused_pair(metrics: Metrics) -> str | None:
    """Name the most frequent confusion, and whether it was to be expected."""
    pair = next(iter(metrics["confused_pairs"]), None)
    if not pair or pair["share"] < PAIR_SHARE or pair["pictures"] < PAIR_PICTURES:
        return None
    reason = look_alike(pair["letter"], pair["taken_for"])
    expected = f"known look-alikes ({reason})" if reason else "not known look-alikes, so look at these pictures"
    return (
        f"Most frequent confusion: {pair['letter']} taken for {pair['taken_for']}, {pair['pictures']:,} pictures or "
        f"{pair['share']:.0%} of all {pair['letter']}; {expected}."
    )


def _these(letters: Sequence[str]) -> str:
    return "this letter" if len(letters) == 1 else "these letters"
