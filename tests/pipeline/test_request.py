"""Arguments of `Pipeline.generate`: values out of float32's range or of another type give one sentence; just inside the
bounds p equals float64's."""

import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import small_config

from ssd_jax import UserError
from ssd_jax.pipeline.request import (
    COLDEST,
    HOTTEST,
    LEAST_MASS,
    LONGEST_PROMPT,
    MAX_GUIDANCE,
    images_of_call,
    sampler_of,
)
from ssd_jax.sampling.distribution import guide, log_probabilities

V = 4096
CONFIG = small_config(visual_size=V, vocab_size=V + 8)


def sampler(cfg_scale=1.0, temperature=1.0, top_k=0, top_p=None):
    return sampler_of(CONFIG, cfg_scale, temperature, top_k, top_p)


def logits_like_a_model(rows: int = 1) -> np.ndarray:
    """float32 [1, rows, V], with a spread of 30 like those of trained backbones."""
    return np.random.default_rng(0).normal(scale=4.0, size=(1, rows, V)).astype(np.float32)


def reference(logits: np.ndarray, temperature: float) -> np.ndarray:
    """p in float64."""
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def p_of(logits: np.ndarray, **knobs) -> np.ndarray:
    return np.exp(np.asarray(jax.jit(log_probabilities)(jnp.asarray(logits), sampler(**knobs)), np.float64))


# -- what is refused, also what only float32 cannot tell from 0 or infinity

NUMBERS = ("cfg_scale", "temperature", "top_p")
NO_NUMBERS = [True, "3", None, [1.0], np.array([1.0]), 1j, np.bool_(True)]
TOO_FAR = [1e38, -1e38, 1e39, 10**400, float("inf"), float("nan"), np.float64(1e300)]


def sentence_about(name: str, call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message.count("\n") == 0 and message.count(". ") == 0 and message.endswith(".") and name in message, message
    return message


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NO_NUMBERS + TOO_FAR, ids=repr)
def test_no_number_of_float32_is_refused(name, value):
    if value is None and name != "temperature":  # the model's own, or off
        return
    sentence_about(name, lambda: sampler(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 1e-38), ("top_p", 1e-50), ("top_p", 0), ("top_p", -0.1), ("top_p", 1.0001),
        ("temperature", 1e-40), ("temperature", 1e-50), ("temperature", 9.99e-4), ("temperature", 1001),
        ("temperature", -1e-50), ("cfg_scale", 1000.1), ("cfg_scale", -1000.1),
        ("top_k", 1.5), ("top_k", "3"), ("top_k", True), ("top_k", -1), ("top_k", 2.0),
    ],
)  # fmt: skip
def test_what_float32_cannot_do_is_refused(name, value):
    sentence_about(name, lambda: sampler(**{name: value}))


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.float32(2), np.array(2.0), jnp.float32(2), Fraction(2)])
def test_numbers_of_every_kind_will_do(value):
    made = sampler(cfg_scale=value, temperature=value)
    assert (made.cfg_scale, made.temperature) == (2.0, 2.0)
    assert sampler(top_p=value / 4).top_p == 0.5


def test_whole_numbers_of_numpy_will_do():
    assert sampler(top_k=np.int64(3)).top_k == 3 and sampler(top_k=10**12).top_k == V
    texts, seeds, numbers = images_of_call(("a", np.str_("b")), np.int32(2), np.array([7, 8], np.uint32))
    assert (texts, seeds, numbers) == (["a", "a", "b", "b"], [7, 7, 8, 8], [0, 1, 0, 1])
    assert images_of_call(["a"], 1, np.int64(3))[1] == images_of_call(["a"], 1, jnp.array([3]))[1] == [3]


# -- just inside the bounds


def test_at_the_coldest_temperature_near_ties_have_the_odds_of_float64():
    logits = logits_like_a_model(64) - 20
    ties = np.random.default_rng(1).uniform(-3, 3, (1, 64, 50)) * COLDEST
    logits[..., :50] = 30 + ties
    p, exact = p_of(logits, temperature=COLDEST), reference(logits, float(np.float32(COLDEST)))
    likely = exact > 1e-6
    np.testing.assert_allclose(p[likely], exact[likely], rtol=5e-3)
    assert likely[..., :50].all() and not p[..., 50:].any()


def test_at_the_coldest_temperature_a_code_that_is_ahead_always_wins():
    logits = logits_like_a_model(64)
    best = np.sort(logits, -1)
    ahead = best[..., -1] - best[..., -2] > 25 * COLDEST  # Gumbel noise of float32 spans less than 25
    assert ahead.sum() > 32
    p = p_of(logits, temperature=COLDEST)
    np.testing.assert_array_equal(p[ahead].round(9), p_of(logits, temperature=0)[ahead])


def test_at_the_hottest_temperature_p_is_that_of_float64_and_nearly_uniform():
    logits = logits_like_a_model()
    p = p_of(logits, temperature=HOTTEST)
    np.testing.assert_allclose(p, reference(logits, HOTTEST), rtol=1e-4)
    np.testing.assert_allclose(p * V, 1.0, atol=0.03)
    kept = p_of(logits, temperature=HOTTEST, top_p=0.5) > 0
    assert kept.sum() == np.sum(np.cumsum(np.sort(reference(logits, HOTTEST))[0, 0, ::-1]) < 0.5) + 1
    assert (p_of(logits, temperature=HOTTEST, top_k=100) > 0).sum() == 100


@pytest.mark.parametrize("scale", [MAX_GUIDANCE, -MAX_GUIDANCE])
@pytest.mark.parametrize("temperature", [COLDEST, 1.0, HOTTEST])
@pytest.mark.parametrize("size", [1.0, 1e31])
def test_the_strongest_guidance_stays_finite(scale, temperature, size):
    rows = size * np.random.default_rng(1).uniform(-1, 1, (2, 1, V)).astype(np.float32)
    made = sampler(cfg_scale=scale, temperature=temperature)
    guided = guide(jnp.asarray(rows), made.cfg_scale, True)
    exact = rows[1:].astype(np.float64) + scale * (rows[:1].astype(np.float64) - rows[1:])
    assert np.asarray(guided).argmax() == exact.argmax()
    p = np.exp(np.asarray(log_probabilities(guided, made), np.float64))
    assert np.isfinite(p).all() and p.sum() == pytest.approx(1, abs=1e-5) and p.argmax() == exact.argmax()


@pytest.mark.parametrize("mass", [LEAST_MASS, 1e-30, 1e-8])
def test_the_smallest_nucleus_is_the_most_likely_code(mass):
    logits = logits_like_a_model(8)
    np.testing.assert_array_equal(p_of(logits, top_p=mass), p_of(logits, temperature=0))


def test_a_nucleus_that_float32_rounds_to_all_is_off():
    assert sampler(top_p=1 - 1e-12).top_p == 1.0
    almost = float(np.nextafter(np.float32(1), np.float32(0)))
    assert (p_of(logits_like_a_model(8), top_p=almost) > 0).sum(-1).min() > 100


# -- types


@pytest.mark.parametrize("prompts", [None, 3, [None], [3], [b"dog"], b"dog", [["dog"]], ["dog", "\udcff"]], ids=repr)
def test_prompts_are_texts(prompts):
    sentence_about("rompt", lambda: images_of_call(prompts, 1, 0))


@pytest.mark.parametrize("seed", [1.5, True, "3", None, [1.5], ["1"], [True], [[1]], -1, 2**32, {}, np.array([0.5])])
def test_seeds_are_whole_numbers(seed):
    sentence_about("seed", lambda: images_of_call(["dog"], 1, seed))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_images", (0, 1.5, 2.0, True, "3", None, [1])),
        ("max_batch", (0, -1, 1.5, True, "3", [1])),
        ("max_passes", (0, 1.5, True, "3")),
        ("seed", (1.5, "3", [0, 1])),
        ("negative_prompt", (3, 0, False, ["cat"], b"cat", "\udcff")),
        ("size", (3, 1.5, True, b"16x16", "wide", (16,), (16, 1.5), ("16", 16), (None, 16), (float("nan"), 16), {})),
        ("cfg_scale", (1e39, "2")),
        ("temperature", (1e38, None)),
        ("top_k", (1.5,)),
        ("top_p", (1e-38,)),
        ("decoder", (3, None, ["ar"])),
    ],
)
def test_generate_refuses_what_is_of_another_type(pipe, name, values):
    for value in values:
        sentence_about(name, lambda value=value: pipe.generate(["red apple"], **{name: value}))


def test_generate_takes_numbers_of_numpy_and_float32_decides_whether_it_guides(pipe):
    plain = pipe.generate(["red apple"], num_images=2, max_batch=1, max_passes=20, cfg_scale=1.0, size=(16, 16))
    whole = dict(num_images=np.int64(2), max_batch=np.int32(1), max_passes=np.int64(2**40), size=np.array([16, 16]))
    out = pipe.generate(np.array(["red apple"]), cfg_scale=np.float64(1 + 1e-12), seed=np.uint8(0), **whole)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    assert out.compile_seconds == 0  # the same program, without guidance


def test_a_prompt_has_a_longest_length():
    assert images_of_call(["x" * LONGEST_PROMPT], 1, 0)[0] == ["x" * LONGEST_PROMPT]
    with pytest.raises(UserError, match=f"at most {LONGEST_PROMPT} letters, not {LONGEST_PROMPT + 1}: 'xxx") as caught:
        images_of_call(["x" * (LONGEST_PROMPT + 1)], 1, 0)
    assert len(str(caught.value)) < 200


def test_arguments_have_the_names_of_other_libraries_too(headed):
    options = {"decoder": "jacobi-above", "pixels": False}
    one = headed.generate(["red apple"], num_images=2, cfg_scale=2.0, **options)
    two = headed.generate(prompt=["red apple"], num_images_per_prompt=2, guidance_scale=2.0, **options)
    three = headed.generate(prompt="red apple", num_images=2, guidance_scale=2.0, **options)
    assert (one.tokens == two.tokens).all() and (one.tokens == three.tokens).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ["a"], "prompt": ["a"]}, "prompts is given twice, once as prompt."),
        ({"prompts": ["a"], "cfg_scale": 2.0, "guidance_scale": 2.0}, "cfg_scale is given twice"),
        ({"prompts": ["a"], "cfg_scales": 2.0}, "generate has no argument cfg_scales; did you mean cfg_scale?"),
        ({"prompts": ["a"], "num_image": 2}, "did you mean num_images?"),
        ({"prompts": ["a"], "zzz": 2}, "generate has no argument zzz; it has prompts, decoder"),
    ],
)
def test_a_wrong_argument_is_answered_with_the_nearest(headed, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        headed.generate(**options)
