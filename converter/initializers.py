"""Initial weights, identical in every framework, thread order and machine.

Every element is a pure function of seed, tensor name and index. The bits come from Philox4x64-10,
a counter-based generator whose raw stream numpy guarantees to be stable (unlike the streams of
``numpy.random.Generator``'s distributions). The conversion from bits to floats uses only operations
that IEEE 754 defines exactly (+, -, ×, ÷, √ and integer arithmetic), one numpy ufunc each so that
no compiler can fuse two of them; ``np.log`` and others differ by an ulp between processors.
"""

from __future__ import annotations

import hashlib
import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

COMPUTED = ("sinusoidal", "frequencies", "window-distances", "count")
"""Rules without randomness: the tensor is known without any file."""

RULES = ("normal", "truncated-normal", "uniform", "constant", *COMPUTED)

_STREAM = "converter-stream-1"
"""Part of every key. Whatever changes values needs a new tag."""

_CHUNK = 32768
"""Elements processed at once: the scratch arrays (128 KB each) about fit a core's L2 cache, and
longer ufuncs hold the interpreter lock less often."""

_ELEMENTS_PER_COUNTER = 8
"""One Philox4x64 counter gives 4 × 64 bits, 32 bits an element."""

_TRUNCATION = math.erf(math.sqrt(2.0))
"""Share of a normal distribution within ±2σ, where TensorFlow's TruncatedNormal cuts."""

# M. Giles, "Approximating the erfinv function" (GPU Computing Gems, 2010), single precision:
# erfinv(x) = x · P(w) with w = -log(1 - x²), highest power first.
_TAIL_FROM = np.float32(5.0)
_CENTRE_SHIFT = np.float32(2.5)
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
# Giles' tail is fitted up to |x| = 1 - 2⁻²³; 32 bits reach 1 - 2⁻³², so the tail, a polynomial in
# √w, is a least-squares fit of its own over that range (relative error below 5e-7).
_TAIL_SHIFT = np.float32(3.5)
_TAIL = (
    -1.8364768e-05, -0.00018857191, 0.000604400353, -0.000734467932, 0.000975252246,
    -0.00203894032, 0.00330432714, 1.00736606, 3.33548474,
)  # fmt: skip

_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA_BITS = np.int32(0x007FFFFF)
_LOG_SERIES = (2 / 7, 2 / 5, 2 / 3, 2.0)
"""log((1 + s) / (1 - s)) = 2s (1 + s²/3 + s⁴/5 + s⁶/7 + …); |s| < 0.172 leaves 3e-8."""


@dataclass(frozen=True, slots=True)
class Initializer:
    """The initial values of one tensor; a pure function of its fields and the element's index."""

    rule: str
    """One of `RULES`."""
    scale: float
    """Standard deviation (of the normal before truncation, as TensorFlow counts it); bound
    of the interval for ``uniform``; value for ``constant``; width of a row for ``sinusoidal``,
    of a head for ``frequencies``, of the window for ``window-distances``, step of ``count``."""
    seed: int
    name: str
    """Canonical name of the tensor, which keys its random stream together with the seed."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"{self.rule!r} is not one of {', '.join(RULES)}")
        if not math.isfinite(self.scale) or (self.scale < 0 and self.rule != "constant"):
            raise ValueError(f"{self.scale} is not a scale for {self.rule}")

    @property
    def key(self) -> int:
        """128-bit key of the tensor's stream."""
        text = f"{_STREAM}\n{self.seed}\n{self.name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")

    def fill(self, out: Array, start: int = 0) -> None:
        """Write the elements ``start .. start + out.size``, in the C order of the canonical layout.

        `out` is C-contiguous, of any floating dtype. Values are computed in float32 and then
        rounded to nearest even where it is narrower. Any partition of a tensor into calls gives the
        same values.
        """
        if not out.flags.c_contiguous:
            raise ValueError("out is not C-contiguous")
        flat = out.reshape(-1)
        if self.rule == "constant" or self.scale == 0:
            flat[...] = np.float32(self.scale)
            return
        chunks: Iterator[Array]
        if self.rule in COMPUTED:
            stop = start + flat.size
            indices = (  # of 64 bits also on Windows, where numpy 1 takes 32
                np.arange(i, min(i + _CHUNK, stop), dtype=np.int64)
                for i in range(start, stop, _CHUNK)
            )
            chunks = (_COMPUTED[self.rule](each, int(self.scale)) for each in indices)
        else:
            chunks = map(_RULES[self.rule](self.scale), _bits(self.key, start, flat.size))
        done = 0
        for values in chunks:
            np.copyto(flat[done : done + values.size], values, casting="unsafe")
            done += values.size


def _sinusoids(indices: Array, width: int) -> Array:
    """Return elements of a sinusoidal position table, in each row sines before cosines.

    Computed in float64 and rounded once, like ``MarianSinusoidalPositionalEmbedding`` and others in
    every framework of transformers 4.57 (``create_weight``, ``_init_weight``).
    """
    position, column = np.divmod(indices, width)
    sines = (width + 1) // 2
    frequency = np.where(column < sines, column, column - sines)
    angle = position / np.power(10000.0, 2.0 * frequency / width)
    return np.where(column < sines, np.sin(angle), np.cos(angle)).astype(np.float32)


def _frequencies(indices: Array, width: int) -> Array:
    """Return the inverse frequencies of rotary positions, of base 10000 (Su et al. 2021)."""
    return np.power(10000.0, -2.0 * indices / width)


def _window_distances(indices: Array, window: int) -> Array:
    """Return for each two cells of a square window their row in its relative position table.

    From the cell of the column to that of the row, counted along height, then along width, like
    ``SwinSelfAttention.create_relative_position_index`` of transformers.
    """
    one, other = np.divmod(indices, window * window)
    down, right = (
        first - second + window - 1
        for first, second in zip(np.divmod(one, window), np.divmod(other, window), strict=True)
    )
    return np.asarray(down * (2 * window - 1) + right)


_COMPUTED: dict[str, Callable[[Array, int], Array]] = {
    "sinusoidal": _sinusoids,
    "frequencies": _frequencies,
    "window-distances": _window_distances,
    "count": operator.mul,  # the multiples of a step, such as position ids
}


def _bits(key: int, start: int, count: int) -> Iterator[Array]:
    """Yield the int32 numbers `start` to ``start + count`` of the stream, in chunks."""
    skip = start % _ELEMENTS_PER_COUNTER
    stream = np.random.Philox(key=key, counter=start // _ELEMENTS_PER_COUNTER)
    for first in range(start - skip, start + count, _CHUNK):
        length = min(_CHUNK, start + count - first)
        words = np.asarray(stream.random_raw((length + 1) // 2))
        if sys.byteorder == "big":
            words = words.astype("<u8").view("<u4").astype(np.uint32)
        yield words.view(np.int32)[skip:length]
        skip = 0


_ToFloats: TypeAlias = Callable[[Array], Array]


def _uniform(scale: float) -> _ToFloats:
    """Return the conversion of bits to floats evenly within ±scale."""
    factor = np.float32(scale * 2.0**-31)
    scratch = np.empty(_CHUNK, np.float32)
    return lambda bits: _symmetric(bits, factor, scratch[: bits.size])


def _symmetric(bits: Array, factor: np.float32, out: Array) -> Array:
    """Return (bits + ½) × factor: evenly spaced and never zero."""
    np.copyto(out, bits, casting="unsafe")
    np.add(out, np.float32(0.5), out=out)
    np.multiply(out, factor, out=out)
    return out


def _normal(scale: float) -> _ToFloats:
    """Return the conversion of bits to normal deviates, by the inverse distribution function."""
    factor = np.float32(scale * math.sqrt(2.0) * 2.0**-31)
    buffers = np.empty((5, _CHUNK), np.float32)

    def convert(bits: Array) -> Array:
        x, w, b, c, d = buffers[:, : bits.size]
        # 1 - |x| from the bits themselves: exact where x is close to ±1, unlike the difference.
        folded = c.view(np.int32)
        np.right_shift(bits, np.int32(31), out=folded)
        np.bitwise_xor(folded, bits, out=folded)
        np.subtract(np.int32(0x7FFFFFFF), folded, out=folded)
        _symmetric(folded, np.float32(2.0**-31), b)
        np.subtract(np.float32(2.0), b, out=w)
        np.multiply(w, b, out=w)  # (1 - |x|)(1 + |x|)
        _minus_log(w, b, c, d)
        tail = np.flatnonzero(np.greater_equal(w, _TAIL_FROM))
        far = np.sqrt(w[tail])
        np.subtract(w, _CENTRE_SHIFT, out=w)
        _polynomial(_CENTRE, w, b)
        np.subtract(far, _TAIL_SHIFT, out=far)
        b[tail] = _polynomial(_TAIL, far, np.empty_like(far))
        _symmetric(bits, factor, x)
        return np.asarray(np.multiply(b, x, out=x))

    return convert


def _truncated_normal(scale: float) -> _ToFloats:
    """Return the conversion of bits to normal deviates truncated at ±2σ."""
    factor = np.float32(_TRUNCATION * 2.0**-31)
    gain = np.float32(scale * math.sqrt(2.0))
    bound = np.float32(2.0 * scale)
    buffers = np.empty((5, _CHUNK), np.float32)

    def convert(bits: Array) -> Array:
        x, w, b, c, d = buffers[:, : bits.size]
        _symmetric(bits, factor, x)
        np.multiply(x, x, out=w)
        np.subtract(np.float32(1.0), w, out=w)
        _minus_log(w, b, c, d)
        np.subtract(w, _CENTRE_SHIFT, out=w)
        _polynomial(_CENTRE, w, b)
        np.multiply(x, gain, out=x)
        np.multiply(b, x, out=x)
        return np.asarray(np.clip(x, -bound, bound, out=x))

    return convert


def _minus_log(t: Array, b: Array, c: Array, d: Array) -> None:
    """Replace the positive normal numbers `t` by ``-log(t)``; the others are scratch.

    t = 2^e · m with m in [√½, √2), and log m = 2 artanh((m - 1) / (m + 1)).
    """
    bits, exponent = t.view(np.int32), b.view(np.int32)
    np.subtract(bits, _SQRT_HALF_BITS, out=bits)
    np.right_shift(bits, np.int32(23), out=exponent)
    np.bitwise_and(bits, _MANTISSA_BITS, out=bits)
    np.add(bits, _SQRT_HALF_BITS, out=bits)
    np.copyto(c, exponent, casting="unsafe")
    np.add(t, np.float32(1.0), out=b)
    np.subtract(t, np.float32(1.0), out=t)
    np.divide(t, b, out=t)  # s
    np.multiply(c, np.float32(math.log(2.0)), out=c)
    np.multiply(t, t, out=b)
    _polynomial(_LOG_SERIES, b, d)
    np.multiply(d, t, out=t)
    np.add(t, c, out=t)
    np.negative(t, out=t)


def _polynomial(coefficients: tuple[float, ...], x: Array, out: Array) -> Array:
    """Evaluate by Horner's scheme, highest power first."""
    np.multiply(x, np.float32(coefficients[0]), out=out)
    for coefficient in coefficients[1:-1]:
        np.add(out, np.float32(coefficient), out=out)
        np.multiply(out, x, out=out)
    np.add(out, np.float32(coefficients[-1]), out=out)
    return out


_RULES: dict[str, Callable[[float], _ToFloats]] = {
    "normal": _normal,
    "truncated-normal": _truncated_normal,
    "uniform": _uniform,
}
