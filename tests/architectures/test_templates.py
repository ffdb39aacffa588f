"""Templates: formatting and matching invert each other."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from converter.architectures.expressions import NamePattern

LITERALS = st.text(alphabet="ab.:/_*+?[]()\\^$|-0", max_size=6)


@st.composite
def templates(draw: st.DrawFn) -> NamePattern:
    text = draw(LITERALS)
    for number in range(draw(st.integers(0, 3))):
        text += f"{{p{number}}}{draw(LITERALS)}"
    assume(not text.endswith("*") and not text.startswith("*"))
    try:
        return NamePattern(text)
    except ValueError:
        assume(False)
        raise


@given(templates(), st.data())
@settings(max_examples=300)
def test_matching_inverts_formatting(template, data):
    numbers = {place: data.draw(st.integers(0, 999_999_999)) for place in template.places}
    assert template.match(template.format(numbers)) == numbers


@given(templates(), st.text(alphabet="ab./_0123456789", max_size=30))
@settings(max_examples=300)
def test_formatting_inverts_matching(template, name):
    numbers = template.match(name)
    if numbers is not None:
        assert template.format(numbers) == name


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("layer.{n}.x", "layer.12.x", {"n": 12}),
        ("layer.{n}.x", "layer.0.x", {"n": 0}),
        ("layer.{n}.x", "layer.01.x", None),
        ("layer.{n}.x", "layer.-1.x", None),
        ("layer.{n}.x", "layer.1.x.y", None),
        ("layer.{n}.x", "a.layer.1.x", None),
        ("layer.{n}.x", "layer_1_x", None),
        ("layer.{n}.x", "layer.1.x\n", None),
        ("layer.{n}.x", "layer.٣.x", None),
        ("layer.{n}.x", "layer.1234567890.x", None),
        ("{a}.{b}", "3.14", {"a": 3, "b": 14}),
        ("plain", "plain", {}),
        ("old.*", "old.thing.1", {}),
        ("old.*", "old.", None),
        ("h.{n}.*", "h.7.x", {"n": 7}),
        (".*", "xy", None),
    ],
)
def test_match(text, name, expected):
    assert NamePattern(text).match(name) == expected


@pytest.mark.parametrize(
    "text", ["{a}.{a}", "{}", "{1}", "{a b}", "{a", "a}", "{{a}}", "{a.b}", "{a}{b}", "{a}0"]
)
def test_refused(text):
    with pytest.raises(ValueError, match=r"placeholders|braces"):
        NamePattern(text)


def test_many_places_take_no_time():
    text = ".".join(f"{{p{n}}}" for n in range(200))
    assert NamePattern(text).match("1." * 5000 + "x") is None


def test_equal_by_text():
    assert {NamePattern("a.{n}"): 1}[NamePattern("a.{n}")] == 1
