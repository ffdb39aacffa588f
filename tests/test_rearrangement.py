"""Rearranging values: against np.transpose, and back again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.tensors import Axes, Rearrangement, numpy_dtype, permute, rearrange, simplify

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex128")


def numbered(shape: tuple[int, ...], dtype: str = "int64") -> np.ndarray:
    """Random bytes, so that every misplaced element shows."""
    kind = numpy_dtype(dtype)
    raw = np.random.default_rng(7).integers(0, 2, math.prod(shape) * kind.itemsize, np.uint8)
    return raw.view(kind).reshape(shape)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Rearrangement, tuple[int, ...]]:
    names = [f"a{i}" for i in range(draw(st.integers(0, 4)))]
    sizes = {name: draw(st.integers(0, 6)) for name in names}
    orders = []
    for order in (names, draw(st.permutations(names))):
        order = list(order)
        for _ in range(draw(st.integers(0, 2))):
            order.insert(draw(st.integers(0, len(order))), "1")
        orders.append(Axes(tuple(order)))
    return Rearrangement(*orders), orders[0].shape(sizes)


@given(layouts(), st.sampled_from(DTYPES))
@settings(max_examples=300)
def test_agrees_with_transpose_and_inverts(case, dtype):
    way, shape = case
    values = numbered(shape, dtype)
    out = np.empty(way.shape(shape), values.dtype)
    assert rearrange(values, way, out) is out
    named = values.reshape([n for n, a in zip(shape, way.source.order, strict=True) if a != "1"])
    expected = np.transpose(named, way.permutation).reshape(out.shape)
    assert out.tobytes() == expected.tobytes()
    back = rearrange(out, way.inverse, np.empty_like(values))
    assert back.tobytes() == values.tobytes()


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(4))))
def test_every_permutation_of_four_axes_at_sizes_that_take_the_blocks(permutation):
    for shape in ((3, 130, 2, 140), (131, 2, 150, 3), (7, 5, 3, 2)):
        values = numbered(shape)
        out = np.zeros(values.size, values.dtype)
        permute(values, shape, permutation, out)
        assert np.array_equal(out, values.transpose(permutation).reshape(-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "complex128"])
@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (16, 64), (65, 33), (257, 1000), (1000, 3)])
def test_matrices_of_odd_sizes(shape, dtype):
    values = numbered(shape, dtype)
    out = np.empty(shape[::-1], values.dtype)
    rearrange(values, Rearrangement(Axes.parse("out in"), Axes.parse("in out")), out)
    assert out.tobytes() == values.T.tobytes()


def test_simplify_merges_what_stays_together():
    assert simplify((2, 3, 4), (0, 1, 2)) == ((24,), (0,))
    assert simplify((2, 3, 4), (2, 0, 1)) == ((6, 4), (1, 0))
    assert simplify((2, 1, 4), (2, 1, 0)) == ((2, 4), (1, 0))
    assert simplify((1, 1), (1, 0)) == ((), ())


def test_wrong_shapes_are_refused():
    way = Rearrangement(Axes.parse("out in"), Axes.parse("in out"))
    with pytest.raises(ValueError, match=r"\[2, 3\] is \[3, 2\]"):
        rearrange(np.zeros((2, 3)), way, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="does not fit"):
        rearrange(np.zeros((2, 3, 1)), way, np.zeros((3, 2)))
