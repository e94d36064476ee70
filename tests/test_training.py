from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from fingerspell import hands
from fingerspell.errors import TuningError
from fingerspell.heads import linear_head, mlp_head, probabilities
from fingerspell.recipes import FusionOptions, LinearOptions, MlpOptions, PointsOptions
from fingerspell.training import Examples, disturbed, train_linear, train_mlp, train_points

OPTIONS = MlpOptions(hidden=(16, 8), epochs=6, batch_size=16)


def examples(count: int, seed: int, *, classes: int = 4, spread: float = 0.5, views: int = 2) -> Examples:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 10))
    targets = rng.integers(classes, size=count)
    noise = rng.normal(scale=spread, size=(count, views, 10))
    return Examples((centres[targets][:, None] + noise).astype(np.float32), targets)


TRAIN, VALIDATION, TEST = examples(400, 0), examples(100, 1), examples(200, 2)


def accuracy(head: torch.nn.Module, some: Examples) -> float:
    return float((probabilities(head, torch.from_numpy(some.features[:, 0])).numpy().argmax(1) == some.targets).mean())


def test_mlp_learns_what_can_be_learnt() -> None:
    trained = train_mlp(TRAIN, VALIDATION, classes=4, options=replace(OPTIONS, epochs=20), seed=0)
    assert accuracy(trained.head, TEST) > 0.9
    assert [row["epoch"] for row in trained.history] == list(range(1, 21))
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.history[-1]["validation_accuracy"] == pytest.approx(accuracy(trained.head, VALIDATION))


def test_same_seed_same_numbers_other_seed_other_numbers() -> None:
    runs = [train_mlp(TRAIN, VALIDATION, classes=4, options=OPTIONS, seed=seed) for seed in (3, 3, 4)]
    assert runs[0].history == runs[1].history
    assert runs[0].history != runs[2].history


def test_learning_rate_decays_as_the_study_says() -> None:
    """With a decay that is over at once, later epochs change nothing."""
    options = replace(OPTIONS, decay_rate=1e-12, decay_steps=25, epochs=4)  # 25 steps are an epoch
    history = train_mlp(TRAIN, VALIDATION, classes=4, options=options, seed=0).history
    assert history[3]["train_loss"] == pytest.approx(history[2]["train_loss"], rel=1e-2)
    constant = train_mlp(TRAIN, VALIDATION, classes=4, options=replace(options, decay_rate=1), seed=0).history
    assert constant[3]["train_loss"] < 0.8 * history[3]["train_loss"]


def test_every_view_is_trained_on() -> None:
    """Views that mean different things are both learnt: one alone would leave the other at chance."""
    train = examples(400, 0, views=1)
    flipped = Examples(np.concatenate([train.features, -train.features], axis=1), train.targets)
    head = train_mlp(flipped, VALIDATION, classes=4, options=replace(OPTIONS, epochs=40, hidden=(64, 32)), seed=0).head
    mirrored = Examples(-TEST.features, TEST.targets)
    assert min(accuracy(head, TEST), accuracy(head, mirrored)) > 0.8


def test_patience_stops_and_keeps_the_best_epoch() -> None:
    hopeless = replace(OPTIONS, epochs=200, patience=3, learning_rate=0.5)
    noise = Examples(TRAIN.features, np.random.default_rng(5).integers(4, size=400))
    trained = train_mlp(noise, VALIDATION, classes=4, options=hopeless, seed=0)
    losses = [row["validation_loss"] for row in trained.history]
    assert len(losses) == int(np.argmin(losses)) + 1 + 3
    logits = trained.head(torch.from_numpy(VALIDATION.features[:, 0]))
    kept = torch.nn.functional.cross_entropy(logits, torch.from_numpy(VALIDATION.targets)).item()
    assert kept == pytest.approx(min(losses), rel=1e-5)


def test_a_head_that_falls_apart_is_no_head() -> None:
    wild = replace(OPTIONS, epochs=3, learning_rate=1e30)
    with pytest.raises(TuningError, match=r"loss became nan in epoch 3. Give a lower head.mlp.learning_rate"):
        train_mlp(TRAIN, VALIDATION, classes=4, options=wild, seed=0)


def test_a_loss_without_end_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "validation_accuracy": 0.5, "validation_loss": float("inf")}
    monkeypatch.setattr("fingerspell.training._scores", lambda *_: row)
    with pytest.raises(TuningError, match="loss became inf in epoch 1"):
        train_mlp(TRAIN, VALIDATION, classes=4, options=replace(OPTIONS, epochs=1), seed=0)


def test_last_batch_of_one_picture_does_no_harm() -> None:
    one_over = Examples(TRAIN.features[:33], TRAIN.targets[:33])
    trained = train_mlp(one_over, VALIDATION, classes=4, options=replace(OPTIONS, batch_size=32), seed=0)
    assert np.isfinite(trained.history[-1]["train_loss"])


def test_linear_head_chooses_the_strength_on_validation() -> None:
    options = LinearOptions(strengths=(1.0, 1e-6, 1e-2))
    trained = train_linear(TRAIN, VALIDATION, classes=4, options=options)
    assert [row["strength"] for row in trained.history] == [1e-6, 1e-2, 1.0]
    best = max(row["validation_accuracy"] for row in trained.history)
    assert accuracy(trained.head, VALIDATION) == pytest.approx(best)
    assert accuracy(trained.head, TEST) > 0.9


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_head_agrees_with_scikit_learn(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    some = examples(300, 7, classes=classes, views=1)
    trained = train_linear(some, some, classes=classes, options=LinearOptions(strengths=(0.1,)))
    flat = some.features[:, 0]
    scaled = (flat - flat.mean(0)) / flat.std(0)
    strength = 0.2 if classes == 2 else 0.1  # of two classes scikit-learn penalises one difference, not two rows
    expected = LogisticRegression(C=strength, max_iter=200).fit(scaled, some.targets).predict_proba(scaled)
    np.testing.assert_allclose(probabilities(trained.head, torch.from_numpy(flat)), expected, atol=1e-2)


def test_each_strength_starts_from_the_solution_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the work: passes over the features, which are what a sweep costs."""
    found: list[Any] = []
    fit = scipy.optimize.minimize

    def counted(*arguments: Any, **options: Any) -> Any:
        found.append(fit(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("fingerspell.training.minimize", counted)
    train_linear(TRAIN, VALIDATION, classes=4, options=LinearOptions(strengths=(0.1, 0.1001), iterations=7))
    assert [result.nit <= 7 for result in found] == [True, True]
    train_linear(TRAIN, VALIDATION, classes=4, options=LinearOptions(strengths=(0.1, 0.1001)))
    assert found[3].nfev < found[2].nfev / 2


def test_fitting_leaves_small_numbers_as_they_were() -> None:
    train_linear(TRAIN, VALIDATION, classes=4, options=LinearOptions(strengths=(0.1,)))
    assert (torch.tensor([1e-40]) * 1).item() > 0


def test_training_a_head_does_not_import_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.optim would do on its first step, for seconds."""
    torch.manual_seed(0)  # where another test has imported the compiler, the first call asks for it
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    train_mlp(TRAIN, VALIDATION, classes=4, options=replace(OPTIONS, epochs=1), seed=0)


def test_head_has_the_studys_layers() -> None:
    head = mlp_head(512, (256, 128), 26)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["BatchNorm1d", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    # Keras counts 2*2*512 + 512*256+256 + 256*128+128 + 128*26+26 parameters, moving averages included
    own = sum(p.numel() for p in head.parameters()) + 2 * 512
    assert own == 4 * 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 * 26 + 26


def test_folded_standardisation_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    weight, bias, mean, scale = (rng.normal(size=s).astype(np.float32) for s in ((3, 5), 3, 5, 5))
    scale = np.abs(scale) + np.float32(0.1)
    x = rng.normal(size=(7, 5)).astype(np.float32)
    logits = linear_head(weight, bias, mean, scale)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(logits, ((x - mean) / scale) @ weight.T + bias, atol=1e-3)


class TestPoints:
    options = PointsOptions(hidden=(16,), epochs=4, batch_size=32)

    def examples(self, count: int, seed: int) -> Examples:
        """Hands of three shapes, each a little different; one in eight was missed."""
        shapes = np.random.default_rng(0).normal(size=(3, 6 * hands.POINTS))
        rng = np.random.default_rng(seed)
        targets = rng.integers(3, size=count)
        rows = np.zeros((count, hands.ROW), np.float32)
        rows[:, [hands.FOUND, hands.RIGHT, hands.SHAPE]] = 1, 0.9, 1
        points = slice(hands.PICTURE.start, hands.WORLD.stop)
        rows[:, points] = shapes[targets] + 0.1 * rng.normal(size=(count, 6 * hands.POINTS))
        rows[::8] = 0
        return Examples(rows[:, None], targets)

    def test_learns_shapes_and_says_nothing_of_missed_hands(self) -> None:
        train, validation = self.examples(160, 1), self.examples(80, 2)
        trained = train_points(train, validation, classes=3, options=self.options, seed=0)
        answers = probabilities(trained.head, torch.from_numpy(validation.features[:, 0]))
        found = validation.features[:, 0, hands.FOUND] > 0
        assert (answers.argmax(dim=1).numpy() == validation.targets)[found].mean() > 0.95
        shares = (np.bincount(train.targets, minlength=3) + 1) / (160 + 3)
        np.testing.assert_allclose(answers[~found], np.tile(shares, ((~found).sum(), 1)), rtol=1e-4)
        assert [row["epoch"] for row in trained.history] == [1, 2, 3, 4]
        assert trained.history[-1]["kept"] == 1

    def test_same_seed_same_head(self) -> None:
        heads = [
            train_points(self.examples(64, 1), self.examples(32, 2), classes=3, options=self.options, seed=5).head
            for _ in range(2)
        ]
        one, other = (head.state_dict() for head in heads)
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_fusion_learns_from_both(self) -> None:
        def with_features(examples: Examples) -> Examples:
            looks = np.tile(np.eye(3, dtype=np.float32)[examples.targets] + 0.1, hands.LOOKS)
            return replace(examples, features=np.concatenate([examples.features, looks[:, None]], axis=2))

        train, validation = with_features(self.examples(160, 1)), with_features(self.examples(80, 2))
        trained = train_points(train, validation, classes=3, options=self.options, fusion=FusionOptions(), seed=0)
        assert trained.history[-1]["validation_accuracy"] > 0.97  # missed hands too: their features speak

    def test_archive_without_any_hand_trains(self) -> None:
        nothing = Examples(np.zeros((20, 1, hands.ROW), np.float32), np.arange(20) % 3)
        trained = train_points(nothing, nothing, classes=3, options=self.options, seed=0)
        assert trained.history[-1]["train_accuracy"] == pytest.approx(7 / 20)


def test_disturbed_hands_are_turned_within_bounds_and_else_the_same() -> None:
    options = PointsOptions(stretch=0.0, jitter=0.0, flip=1e-9, turn=20, tilt=0)
    points = torch.randn(200, 2, hands.POINTS, 3)
    changed = disturbed(points, options)
    torch.testing.assert_close(changed[..., 2], points[..., 2])
    before, after = (torch.atan2(p[..., 1], p[..., 0]) for p in (points, changed))
    angles = torch.rad2deg((after - before + torch.pi) % (2 * torch.pi) - torch.pi)
    assert 15 < angles.abs().max() < 20.01
    torch.testing.assert_close(angles, angles[:, :1, :1].expand_as(angles), atol=0.01, rtol=0)  # both kinds together
    mirrored = disturbed(points, replace(options, turn=0.0, flip=1 - 1e-9))
    torch.testing.assert_close(mirrored, points * torch.tensor([-1, 1, 1]))
