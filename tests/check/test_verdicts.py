"""Where two sides count as the same."""

import numpy as np

from ssd_jax.check.verdicts import bounds_for, greedy, logits

EXACT = bounds_for("float32", 32)


def random_logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)


def test_logits_that_are_not_finite_fail():
    theirs = random_logits()
    ours = theirs.copy()
    ours[1, 3] = np.nan
    assert not logits(ours, theirs, EXACT).passed
    assert not logits(theirs, ours, EXACT).passed


def test_one_logit_far_off_fails_though_the_mean_is_small():
    theirs = random_logits()
    ours = theirs.copy()
    ours[1, 3] += 2 * EXACT.most * theirs.std()
    assert np.abs(ours - theirs).mean() < EXACT.mean * theirs.std()
    assert not logits(ours, theirs, EXACT).passed


def test_another_greedy_code_is_excused_by_a_near_tie_alone():
    theirs = random_logits()
    codes = theirs.argmax(-1)
    ours = codes.copy()
    ours[2] = theirs[2].argsort()[-2]
    assert not greedy(ours, codes, theirs, EXACT).passed
    theirs[2, ours[2]] = theirs[2].max() - EXACT.tie / 2 * theirs.std()
    tied = greedy(ours, codes, theirs, EXACT)
    assert tied.passed and tied.said.startswith("the first 2 of 4 the same")


def test_codes_behind_a_near_tie_are_not_compared():
    theirs = random_logits()
    codes = theirs.argmax(-1)
    ours = codes.copy()
    ours[2:] = theirs[2:].argsort()[:, -2]
    theirs[2, ours[2]] = theirs[2].max() - EXACT.tie / 2 * theirs.std()
    assert greedy(ours, codes, theirs, EXACT).passed


def test_bounds_of_bfloat16_grow_with_depth_and_those_of_float32_do_not():
    assert bounds_for("float32", 1) == bounds_for("float32", 32)
    assert bounds_for("bfloat16", 1).mean < bounds_for("bfloat16", 32).mean
    assert bounds_for("float32", 32).mean < bounds_for("bfloat16", 1).mean
