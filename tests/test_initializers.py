"""Initial weights: the stream is pinned, addressed by position, and correctly distributed."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest

from converter import initializers
from converter.initializers import Initializer
from converter.tensors import numpy_dtype

NORMAL = NormalDist()
RANDOM = ("normal", "truncated-normal", "uniform")


def draw(rule: str, count: int, scale: float = 1.0, seed: int = 0, name: str = "w", **kw):
    out = np.empty(count, numpy_dtype(kw.pop("dtype", "float32")))
    Initializer(rule, scale, seed, name).fill(out, kw.pop("start", 0))
    return out


GOLDEN = {
    (
        "normal",
        0.02,
        0,
        "decoder.h.0.crossattention.q_attn.weight",
    ): "9abeba1a23ddbc480e10982de3b6935abc58c33fd977e047bcc4574ac9c192fc",
    (
        "truncated-normal",
        0.02,
        0,
        "decoder.h.0.crossattention.q_attn.weight",
    ): "3faf18a413f3295d0084efb4130229c10c5cf9f85186ae2e54edccfa9325b3d6",
    (
        "uniform",
        0.05,
        7,
        "enc_to_dec_proj.weight",
    ): "0443c6af49e8e7e1bf8fdb9eca4d107e4d985c6229f7b49d2be883b4749cd30a",
    (
        "normal",
        1.0,
        123456789,
        "größe",
    ): "543d595c44bb1fc20b795169ea56b04b04b60046dcc66220901f4c4349d64ea6",
    ("constant", 1.0, 0, "w"): "2719bea47bcadb877ae01452921e297e9c664a0da2d32973a8e4a4efc05c880b",
}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: "-".join(map(str, case[:3])))
def test_the_stream_never_changes(case):
    rule, scale, seed, name = case
    values = draw(rule, 100_003, scale, seed, name)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == GOLDEN[case]


@pytest.mark.parametrize("rule", RANDOM)
def test_any_chunking_gives_the_same(rule):
    count = 3 * initializers._CHUNK + 1234
    values = draw(rule, count)
    for start, length in (
        (0, 1),
        (1, 7),
        (7, 2),
        (8, 8),
        (initializers._CHUNK - 3, 9),
        (5, 70_000),
    ):
        assert np.array_equal(draw(rule, length, start=start), values[start : start + length])
    matrix = np.empty((100, 77), np.float32)
    Initializer(rule, 1.0, 0, "w").fill(matrix, 11)
    assert np.array_equal(matrix.ravel(), values[11 : 11 + matrix.size])
    Initializer(rule, 1.0, 0, "w").fill(np.empty(0, np.float32), 5)


@pytest.mark.parametrize("rule", RANDOM)
def test_names_and_seeds_are_independent(rule):
    base = draw(rule, 50_000)
    for other in (draw(rule, 50_000, name="x"), draw(rule, 50_000, seed=1)):
        assert not np.any(base[:100] == other[:100])
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(base[1:], base[:-1])[0, 1]) < 0.02


def kolmogorov(values: np.ndarray, distribution) -> float:
    """√n times the largest distance from the exact distribution function."""
    values = np.sort(values.astype(np.float64))
    exact = np.array([distribution(value) for value in values])
    ranks = np.arange(values.size + 1) / values.size
    return math.sqrt(values.size) * max(np.max(exact - ranks[:-1]), np.max(ranks[1:] - exact))


def truncated_cdf(value: float) -> float:
    return (NORMAL.cdf(value) - NORMAL.cdf(-2)) / (NORMAL.cdf(2) - NORMAL.cdf(-2))


@pytest.mark.parametrize(
    ("rule", "distribution", "deviation"),
    [
        ("normal", NORMAL.cdf, 1.0),
        ("truncated-normal", truncated_cdf, 0.8796256610342398),
        ("uniform", lambda value: (value + 1) / 2, math.sqrt(1 / 3)),
    ],
)
def test_distributions(rule, distribution, deviation):
    values = draw(rule, 200_000)
    assert kolmogorov(values, distribution) < 1.63  # the 1 % point of Kolmogorov's distribution
    wide = values.astype(np.float64)
    assert abs(wide.mean()) < 4 * deviation / math.sqrt(values.size)
    assert wide.std() == pytest.approx(deviation, rel=0.006)


def test_the_normal_has_tails_and_the_truncated_has_none():
    values = np.abs(draw("normal", 4_000_000))
    for bound in (2.0, 3.0, 4.0):
        expected = 2 * NORMAL.cdf(-bound) * values.size
        assert abs(np.count_nonzero(values > bound) - expected) < 4 * math.sqrt(expected)
    assert values.max() > 4.8
    truncated = np.abs(draw("truncated-normal", 1_000_000, 0.5))
    assert 0.9999 < truncated.max() <= 1.0
    assert np.abs(draw("uniform", 100_000, 0.25)).max() <= 0.25


EXTREMES = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2, 1000, 2**31 - 2, 2**31 - 1], np.int32)


def sample_bits() -> np.ndarray:
    """Extremes, and steps into the tail where the approximation changes over."""
    near_one = 2**31 - 1 - np.unique(np.geomspace(1, 2**30, 3000).astype(np.int64))
    spread = np.linspace(-(2**31), 2**31 - 1, 5000).astype(np.int64)
    return np.concatenate([EXTREMES, near_one, ~near_one, spread]).astype(np.int32)


def test_the_normal_is_close_to_the_exact_inverse():
    bits = sample_bits()
    got = initializers._normal(1.0)(bits).astype(np.float64)
    tails = np.array([(2**31 - 1 - max(int(b), ~int(b)) + 0.5) / 2**32 for b in bits])
    exact = -np.array([NORMAL.inv_cdf(tail) for tail in tails]) * np.where(bits < 0, -1, 1)
    assert np.max(np.abs(got / exact - 1)) < 1e-6
    assert np.allclose(got, -initializers._normal(1.0)(~bits), rtol=1e-6)


def test_the_truncated_normal_is_close_to_the_exact_inverse():
    bits = sample_bits()
    got = initializers._truncated_normal(1.0)(bits).astype(np.float64)
    share = math.erf(math.sqrt(2))
    exact = np.array([NORMAL.inv_cdf(0.5 + (int(b) + 0.5) / 2**32 * share) for b in bits])
    small = np.abs(bits.astype(np.int64)) < 2**20  # 0.5 + x loses the digits of x
    assert np.max(np.abs(got / exact - 1)[~small]) < 2e-6


def test_elements_are_those_of_the_philox_stream():
    key = Initializer("normal", 1.0, 3, "w").key
    words = np.random.Philox(key=key, counter=0).random_raw(20)
    bits = words.astype("<u8").view("<i4").astype(np.float64)
    expected = ((bits + 0.5) * 2.0**-31).astype(np.float32)
    assert np.allclose(draw("uniform", 40, seed=3), expected, rtol=2e-7)


@pytest.mark.parametrize("rule", RANDOM)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_the_rounded_float32(rule, dtype):
    assert np.array_equal(
        draw(rule, 10_000, 0.02, dtype=dtype), draw(rule, 10_000, 0.02).astype(numpy_dtype(dtype))
    )


def test_scale_scales_and_constants_are_constant():
    assert np.allclose(draw("normal", 1000, 0.02), draw("normal", 1000) * 0.02, rtol=1e-6)
    assert np.array_equal(draw("constant", 5, 1.0), np.ones(5, np.float32))
    assert np.array_equal(draw("normal", 5, 0.0), np.zeros(5, np.float32))


@pytest.mark.parametrize("bad", [("gauss", 1.0), ("normal", -1.0), ("uniform", math.nan)])
def test_nonsense_is_refused(bad: tuple[str, float]) -> None:
    with pytest.raises(ValueError, match=r"not one of|not a scale"):
        Initializer(bad[0], bad[1], 0, "w")
