"""Calibration and abstention, on models whose confidence is known to be too high or too low."""

from __future__ import annotations

import numpy as np
import pytest

from fingerspell import calibration


def answers(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is sharper than the truth by ``temperature``, and letters drawn from the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 5))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(5, p=row) for row in true])
    said = np.exp(logits * temperature)
    return (said / said.sum(axis=1, keepdims=True)).astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_and_mends_the_error(temperature: float) -> None:
    probabilities, targets = answers(20_000, temperature)
    fitted = calibration.fit(probabilities, targets, risk=0.05)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    fresh, fresh_targets = answers(20_000, temperature, seed=1)
    before = calibration.calibration_error(*calibration.best(fresh, fresh_targets))
    after = calibration.calibration_error(
        *calibration.best(calibration.temper(fresh, fitted.temperature), fresh_targets)
    )
    assert after < 0.015
    if temperature != 1.0:
        assert before > 3 * after


def test_threshold_keeps_the_risk_and_names_as_many_as_it_can() -> None:
    probabilities, targets = answers(20_000, 2.0)
    fitted = calibration.fit(probabilities, targets, risk=0.1)
    confidence, correct = calibration.best(calibration.temper(probabilities, fitted.temperature), targets)
    named = confidence >= fitted.threshold
    assert 0.08 < (~correct[named]).mean() <= 0.1
    assert 0 < named.mean() < 1


def test_a_model_that_is_always_right_names_everything() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    fitted = calibration.fit(probabilities, probabilities.argmax(axis=1), risk=0.05)
    assert fitted.threshold == 0
    assert np.isfinite(fitted.temperature)


def test_no_mistake_on_validation_is_no_reason_to_be_surer() -> None:
    rng = np.random.default_rng(0)
    sure, unsure = rng.uniform(0.9, 0.999, 500), rng.uniform(0.3, 0.6, 100)
    letters, others = (np.stack([p, 1 - p], axis=1).astype(np.float32) for p in (sure, np.maximum(unsure, 0.5)))
    fitted = calibration.fit(letters, np.zeros(500, np.int64), risk=0.05, on_others=others)
    confidence = calibration.temper(letters, fitted.temperature).max(axis=1)
    assert confidence.mean() == pytest.approx(500 / 501, abs=1e-3)
    assert (confidence >= fitted.threshold).all()


def test_pictures_of_which_it_is_as_sure_are_named_together() -> None:
    probabilities = np.tile(np.array([0.8, 0.2], np.float32), (20, 1))
    targets = np.array([0] * 10 + [1] * 10)  # a lost hand, say: the same answer of each, first right, then wrong
    assert calibration.fit(probabilities, targets, risk=0.05).threshold > 1


def test_a_model_that_is_always_wrong_names_nothing() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    assert calibration.fit(probabilities, (probabilities.argmax(axis=1) + 1) % 4, risk=0.05).threshold > 1


def test_few_pictures_of_no_letter_get_one_and_no_fewer_than_need_be() -> None:
    letters = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    sure = np.linspace(0.4, 0.9, 100, dtype=np.float32)
    others = np.stack([sure, *[(1 - sure) / 3] * 3], axis=1)
    fitted = calibration.fit(letters, letters.argmax(axis=1), risk=0.05, on_others=others)
    assert (calibration.temper(others, fitted.temperature).max(axis=1) >= fitted.threshold).sum() == 5
    assert fitted.threshold < 1


def test_a_model_that_is_sure_of_pictures_of_no_letter_names_nothing() -> None:
    letters = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    fitted = calibration.fit(letters, letters.argmax(axis=1), risk=0.05, on_others=letters)
    assert (calibration.temper(letters, fitted.temperature).max(axis=1) < fitted.threshold).all()


def test_without_pictures_of_no_letter_the_letters_decide() -> None:
    probabilities, targets = answers(1000, 2.0)
    none = np.empty((0, 5), np.float32)
    assert calibration.fit(probabilities, targets, 0.1, on_others=none) == calibration.fit(probabilities, targets, 0.1)


def test_tempering_keeps_the_order_and_the_sum() -> None:
    probabilities, _ = answers(100, 1.0)
    tempered = calibration.temper(probabilities, 4.0)
    np.testing.assert_allclose(tempered.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(tempered.argmax(axis=1), probabilities.argmax(axis=1))
    assert tempered.max() < probabilities.max()


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55], np.float32)
    correct = np.array([True, False, True, False])
    # Two bins of two pictures, half of each right: |0.95 - 0.5| and |0.55 - 0.5|.
    assert calibration.calibration_error(confidence, correct) == pytest.approx((0.45 + 0.05) / 2)


def test_risk_and_coverage_by_hand() -> None:
    confidence = np.array([0.2, 0.9, 0.8, 0.4], np.float32)
    correct = np.array([False, True, False, True])
    found = [(round(c, 2), round(r, 2), round(t, 2)) for c, r, t in calibration.risk_coverage(confidence, correct)]
    assert found == [(0.25, 0, 0.9), (0.5, 0.5, 0.8), (0.75, 0.33, 0.4), (1, 0.5, 0.2)]


def test_weights_count_pictures_several_times() -> None:
    probabilities, targets = answers(1000, 2.0)
    weights = np.random.default_rng(0).integers(1, 4, 1000)
    weighted = calibration.fit(probabilities, targets, 0.1, weights=weights.astype(float))
    repeated = calibration.fit(probabilities.repeat(weights, axis=0), targets.repeat(weights), 0.1)
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-3)
    assert weighted.threshold == pytest.approx(repeated.threshold, abs=5e-3)
