"""Mistakes planted into good tables, each of which lint must find and name."""

from __future__ import annotations

import random

import pytest

from converter.architectures.lint import lint
from tests.architectures.mistakes import PLANTED
from tests.architectures.planting import MAPPINGS, changed, findings
from tests.sampling import quick_sample


@pytest.mark.parametrize("mistake", quick_sample(PLANTED, 4))
def test_a_planted_mistake_is_found_and_named(mistake, tmp_path):
    table, changes, named = PLANTED[mistake]
    found = findings(changed(tmp_path, table, *changes))
    assert found
    for part in named:
        assert any(part in finding for finding in found), (part, found)


def test_several_mistakes_are_found_at_once(tmp_path):
    path = changed(
        tmp_path,
        "gpt2",
        ('layer = "n_layer"', 'layer = "n_layers"'),
        ('"h.{layer}.ln_2"', '"h.{block}.ln_2"'),
        ('head = "lm"', 'head = "ml"'),
        ("pad   = {", "mask  = {"),
    )
    found = "\n".join(findings(path))
    for place in ("layers.layer", "h.{block}.ln_2", "unsupported.untied.head", "tokens.mask"):
        assert place in found


def test_a_finding_in_every_layer_is_one_finding(tmp_path):
    path = changed(tmp_path, "gpt2", ('"h.{layer}.attn.bias" ', '"h.{layer}.ln_1.bias" '))
    assert len(findings(path)) == 1


@pytest.mark.parametrize("table", quick_sample(sorted({each[0] for each in PLANTED.values()}), 4))
def test_a_table_without_a_mistake_has_no_findings(table, tmp_path):
    """The tables in which mistakes are planted; test_families.py checks all of them."""
    assert findings(changed(tmp_path, table)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"model_type = 5",
        b'model_type = "x"',
        b'composite = "x"',
        b'model_type = "x"\ncomposite = "y"',
        b"\xff\xfe",
        b"a" * (2 << 20),
        b'model_type = "x"\nmodel_type = "y"',
        b'model_type = "x"\nn = ' + b"9" * 1000,
        b'model_type = "x"\nn = 0x' + b"f" * 1000,
        b'model_type = "x"\nn = ' + b"[\n" * 3000,
        b'model_type = "x"\nextends = 5',
        b'model_type = "x"\nextends = "encoder-decoder"',
        b'model_type = "_dialects"\ntitle = "t"',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_file_that_is_no_table_is_a_finding(content, tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    assert findings(path)


def test_a_file_that_is_not_there_is_a_finding(tmp_path):
    assert findings(tmp_path / "none.toml")
    assert findings(tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        "bert",
        "gpt2",
        pytest.param("electra", marks=pytest.mark.slow),
        pytest.param("encoder-decoder", marks=pytest.mark.slow),
        "_dialects",
    ],
)
@pytest.mark.slow
def test_mutated_tables_give_findings_and_never_an_error(table, tmp_path):
    """Lines lost, doubled, mixed up; words and numbers exchanged: lint must cope with all."""
    random_ = random.Random(table)
    text = (MAPPINGS / f"{table}.toml").read_text()
    lines = text.splitlines()
    words = sorted({word for word in text.replace('"', " ").split() if word.isidentifier()})
    extra = ["false", "0", "-1", "[]", "{}", '""', "nan", '"{x}"', "1979-05-27", '"a / 0"', "true"]
    path = tmp_path / f"{table}.toml"
    for _ in range(25):
        mutated = list(lines)
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(mutated))
            match random_.randrange(4):
                case 0:
                    del mutated[at]
                case 1:
                    other = random_.randrange(len(mutated))
                    mutated[at], mutated[other] = mutated[other], mutated[at]
                case 2:
                    mutated[at] = mutated[at].replace(random_.choice(words), random_.choice(words))
                case 3 if "=" in mutated[at]:
                    key = mutated[at].partition("=")[0]
                    mutated[at] = f"{key}= {random_.choice(extra)}"
        path.write_text("\n".join(mutated))
        for problem in lint(path):
            assert str(problem)
