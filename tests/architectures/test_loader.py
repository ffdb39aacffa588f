"""The strict loader: each slip is a problem that names its place, all of them at once."""

from __future__ import annotations

import tomllib

import pytest

from converter.architectures.decoding import parse_toml
from converter.architectures.loader import load_architecture, load_composite, load_conventions
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpecBuilder
from converter.errors import TableError
from tests.architectures.planting import MAPPINGS
from tests.factories import bundled_registry, tiny_config

VOCABULARY = bundled_registry().conventions
LOADERS = {
    "gpt2": lambda data: load_architecture(data, "gpt2.toml", VOCABULARY),
    "encoder-decoder": lambda data: load_composite(data, "encoder-decoder.toml", VOCABULARY),
    "_dialects": lambda data: load_conventions(data, "_dialects.toml"),
}


def table(name: str) -> dict:
    return tomllib.loads((MAPPINGS / f"{name}.toml").read_text())


def load(name: str, data: dict) -> list[str]:
    """Return the problems of loading a table, as text."""
    try:
        LOADERS[name](data)
    except TableError as error:
        assert error.problems
        return [str(problem) for problem in error.problems]
    return []


def put(data: dict, place: tuple, value: object) -> None:
    for key in place[:-1]:
        data = data[key]
    data[place[-1]] = value


ROW = ("modules", "wte")
LEAF = ("linear", "weight")

UNKNOWN_KEYS = [
    ("gpt2", ()),
    ("gpt2", ("models", "GPT2Model")),
    ("gpt2", ("roles", "encoder")),
    ("gpt2", ("tokens", "start")),
    ("gpt2", ROW),
    ("gpt2", ("heads", "lm", "lm_head")),
    ("gpt2", ("tied", "lm_head.weight")),
    ("gpt2", ("unsupported", "untied")),
    ("encoder-decoder", ()),
    ("encoder-decoder", ("classes",)),
    ("encoder-decoder", ("modules", "enc_to_dec_proj")),
    ("_dialects", ("dialects", "pytorch")),
    ("_dialects", ("linear", "weight", "flax")),
]


@pytest.mark.parametrize(("name", "place"), UNKNOWN_KEYS, ids=str)
def test_an_unknown_key_is_refused_everywhere(name, place):
    data = table(name)
    put(data, (*place, "surprise"), "x")
    problems = load(name, data)
    assert any("surprise" in problem for problem in problems), problems
    where = ".".join(key for key in place if isinstance(key, str))
    assert all(where.split(".")[-1] in problem for problem in problems), problems


WRONG_TYPES = [
    ("gpt2", ("model_type",)),
    ("gpt2", ("title",)),
    ("gpt2", ("init",)),
    ("gpt2", ("layers",)),
    ("gpt2", ("layers", "layer")),
    ("gpt2", ("nullable",)),
    ("gpt2", ("config",)),
    ("gpt2", ("attributes",)),
    ("gpt2", ("attributes", "width")),
    ("gpt2", ("models",)),
    ("gpt2", ("models", "GPT2Model")),
    ("gpt2", ("models", "GPT2LMHeadModel", "heads")),
    ("gpt2", ("roles", "decoder", "model")),
    ("gpt2", ("roles", "decoder", "config")),
    ("gpt2", ("tokens", "start", "token")),
    ("gpt2", ("tokens", "start", "id")),
    ("gpt2", ("modules",)),
    ("gpt2", ROW),
    ("gpt2", (*ROW, "embedding")),
    ("gpt2", (*ROW, "when")),
    ("gpt2", (*ROW, "init")),
    ("gpt2", (*ROW, "path")),
    ("gpt2", (*ROW, "param")),
    ("gpt2", (*ROW, "weight")),
    ("gpt2", ("parts",)),
    ("gpt2", ("parts", "cross_attention")),
    ("gpt2", ("heads", "lm", "lm_head", "bias")),
    ("gpt2", ("tied", "lm_head.weight", "to")),
    ("gpt2", ("tied", "lm_head.weight", "when")),
    ("gpt2", ("ignore",)),
    ("gpt2", ("ignore", "pytorch", "h.{layer}.attn.bias")),
    ("gpt2", ("unsupported",)),
    ("gpt2", ("unsupported", "untied", "when")),
    ("gpt2", ("unsupported", "untied", "frameworks")),
    ("gpt2", ("unsupported", "untied", "reason")),
    ("gpt2", ("unsupported", "untied", "head")),
    ("encoder-decoder", ("composite",)),
    ("encoder-decoder", ("submodels",)),
    ("encoder-decoder", ("classes",)),
    ("encoder-decoder", ("modules",)),
    ("_dialects", ("dialects", "pytorch", "separator")),
    ("_dialects", ("dialects", "pytorch", "base_model_prefix")),
    ("_dialects", ("dialects", "pytorch", "inner_prefixes")),
    ("_dialects", ("linear", "sizes")),
    ("_dialects", (*LEAF, "init")),
    ("_dialects", (*LEAF, "flax")),
    ("_dialects", (*LEAF, "axes")),
    ("_dialects", (*LEAF, "flax", "name")),
]


@pytest.mark.parametrize("value", [5, 1.5, True], ids=repr)
@pytest.mark.parametrize(("name", "place"), WRONG_TYPES, ids=str)
def test_a_value_of_the_wrong_type_is_refused_everywhere(name, place, value):
    if place[-1] == "id" and value == 5:
        return
    data = table(name)
    put(data, place, value)
    problems = load(name, data)
    key = [key for key in place if isinstance(key, str)][-1]
    assert any(key in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*ROW, "embedding"), "vocab_size"),
        ((*ROW, "embedding"), "vocab_size -> n_embd -> n_embd"),
        ((*ROW, "embedding"), "vocab_size -> open('x')"),
        ((*ROW, "linear"), "n_embd -> n_embd"),
        ((*ROW, "when"), "import os"),
        ((*ROW, "init"), "cauchy(1)"),
        ((*ROW, "path"), {"klingon": "wte"}),
        ((*ROW, "path"), {"flax": "wte/{layer}"}),
        ((*ROW, "param"), {"klingon": "weight"}),
        ((*ROW, "weight"), True),
        (("modules", "h.{layer.x"), {"layer_norm": "n_embd"}),
        (("modules", "h.{layer}.{layer}"), {"layer_norm": "n_embd"}),
        (("frameworks",), ["theano"]),
        (("config", "n_embd"), {"a": 1}),
        (("config", "n_embd"), [[1]]),
        (("models", "GPT2Model", "frameworks"), ["theano"]),
        (("roles", "encoder", "frameworks"), ["pytorch"]),
        (("tied", "lm_head.weight", "stored_in"), ["klingon"]),
        (("tied", "lm_head.weight", "when"), "1 +"),
        (("ignore", "klingon"), {"x": "y"}),
        (("unsupported", "untied", "frameworks"), ["theano"]),
        (("unsupported",), ["x"]),
        (("init",), "normal(__import__)"),
        (("layers", "layer"), "lambda: 1"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused(place, value):
    data = table("gpt2")
    put(data, place, value)
    problems = load("gpt2", data)
    key = next(key for key in place if isinstance(key, str))
    assert any(key in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("gpt2", ("model_type",)),
        ("gpt2", ("title",)),
        ("gpt2", ("roles", "encoder", "model")),
        ("gpt2", ("tokens", "start", "token")),
        ("gpt2", ("tied", "lm_head.weight", "to")),
        ("gpt2", ("unsupported", "untied", "when")),
        ("gpt2", ("unsupported", "untied", "reason")),
        ("gpt2", (*ROW, "embedding")),
        ("encoder-decoder", ("composite",)),
        ("encoder-decoder", ("submodels",)),
        ("_dialects", ("dialects", "flax", "base_model_prefix")),
        ("_dialects", ("linear", "sizes")),
        ("_dialects", (*LEAF, "init")),
        ("_dialects", (*LEAF, "axes")),
    ],
    ids=str,
)
def test_a_key_that_must_be_there(name, place):
    data = table(name)
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    assert load(name, data)


def test_conditions_choose_among_the_alternatives_of_a_row():
    data = table("gpt2")
    data["modules"]["ln_f"] = [
        {"layer_norm": "n_embd", "when": "n_layer > 3"},
        {"vector": "n_embd", "when": "n_layer <= 3"},
    ]
    architecture = load_architecture(data, "gpt2.toml", VOCABULARY)
    for layers, found in ((4, {"ln_f.weight", "ln_f.bias"}), (3, {"ln_f"})):
        config = ModelConfig(architecture, {"n_layer": layers})
        names = ModelSpecBuilder(VOCABULARY).model(config).by_name
        assert {name for name in names if name.startswith("ln_f")} == found


@pytest.mark.parametrize("layers", [1, 3, 5, 9])
def test_a_parameter_may_have_a_condition(layers):
    data = table("gpt2")
    data["modules"]["ln_f"] = {
        "layer_norm": "n_embd",
        "when": "n_layer > 1 or n_head == 0",
        "weight": "n_layer < 9",
        "bias": "n_layer == 1 or n_layer > 3",
    }
    architecture = load_architecture(data, "gpt2.toml", VOCABULARY)
    names = (
        ModelSpecBuilder(VOCABULARY).model(ModelConfig(architecture, {"n_layer": layers})).by_name
    )
    expected = {1: set(), 3: {"weight"}, 5: {"weight", "bias"}, 9: {"bias"}}[layers]
    assert {name[5:] for name in names if name.startswith("ln_f.")} == expected


def test_the_condition_of_a_parameter_is_checked_in_its_place():
    data = table("gpt2")
    data["modules"]["ln_f"] = {"layer_norm": "n_embd", "bias": "n_layer >"}
    (problem,) = load("gpt2", data)
    assert "modules.ln_f.bias" in problem and "n_layer >" in problem


def test_an_alternative_that_is_no_table_is_refused():
    data = table("gpt2")
    data["modules"]["ln_f"] = [{"layer_norm": "n_embd"}, "layer_norm"]
    (problem,) = load("gpt2", data)
    assert "modules.ln_f" in problem and "a table" in problem


def test_all_slips_are_reported_at_once():
    data = table("gpt2")
    put(data, ("surprise",), 1)
    put(data, ("title",), 5)
    put(data, (*ROW, "when"), "import os")
    put(data, ("tied", "lm_head.weight", "when"), 3)
    put(data, ("unsupported", "untied", "frameworks"), ["theano"])
    put(data, ("attributes", "width"), "n_embed")
    text = "\n".join(load("gpt2", data))
    for place in ("surprise", "title", "modules.wte.when", "tied.lm_head.weight.when",
                  "unsupported.untied.frameworks", "attributes.width"):  # fmt: skip
        assert place in text


@pytest.mark.parametrize(
    "text",
    [
        b"a = 1\na = 2",
        b"[a]\nb = 1\n[a]\nc = 2",
        b'[modules]\n"x" = { linear = "a -> b" }\n"x" = { linear = "a -> b" }',
        b"a = ",
        b"\xff\xfe\x00",
        b"a = '" + b"\xc3",
        b"a = " + b"[\n" * 5000,
        b"a = " + b"1" * 1000,
        b"a = 0x" + b"f" * 1000,
        b"a = [[{b = 9223372036854775808}]]",
        b"#" * (1 << 21),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_toml_is_one_table_error(text):
    with pytest.raises(TableError, match=r"some\.toml"):
        parse_toml(text, "some.toml")


def test_bundled_tables_load():
    for name in LOADERS:
        assert load(name, table(name)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": []}, "languages.codes"),
        ({"codes": [["en", 3]]}, "languages.codes"),
        ({"codes": [["en"], ["en"]]}, "'en' is listed twice"),
        ({"codes": [["en"]], "format": "__"}, "must have one {}"),
        ({"codes": [["en"]], "format": "{0}"}, "must have one {}"),
        ({"codes": [["en"]], "first_id": "5"}, "a whole number"),
        ({"codes": [["en"]], "last": 5}, "unknown key 'last'"),
    ],
)
def test_languages_are_read_strictly(change: dict, message: str):
    data = table("gpt2")
    data["languages"] = {"first_id": 5, **change}
    problems = load("gpt2", data)
    assert problems and all("languages" in problem for problem in problems)
    assert message in " ".join(problems)


def test_languages_need_a_start_token_beside_them():
    data = table("gpt2")
    data["languages"] = {"first_id": 5, "codes": [["en"]]}
    assert not load("gpt2", data)
    del data["tokens"]["start"]
    assert "without a language code" in " ".join(load("gpt2", data))


def test_a_specification_is_built_once_for_equal_configurations() -> None:
    registry = bundled_registry()
    architecture, raw = registry.architecture("bert"), tiny_config("bert")
    specs = ModelSpecBuilder(registry.conventions)
    first = specs.model(ModelConfig(architecture, raw))
    assert specs.model(ModelConfig(architecture, dict(raw), "another file")) is first
    larger = specs.model(ModelConfig(architecture, {**raw, "num_hidden_layers": 5}))
    assert len(larger.params) > len(first.params)
    assert specs.model(ModelConfig(architecture, raw), heads=[]) != first
    prefixed = specs.model(ModelConfig(architecture, raw), prefix="encoder")
    assert prefixed.params[0].name.startswith("encoder.")
    for layers in range(4, 20):  # only the last few are kept
        specs.model(ModelConfig(architecture, {**raw, "num_hidden_layers": layers}))
    assert len(specs._built) <= 8
    odd = specs.model(ModelConfig(architecture, {**raw, "unknown": {1, 2}}))  # not JSON
    assert odd.params == first.params
