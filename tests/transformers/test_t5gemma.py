"""Two Gemma 2 become a T5Gemma as its authors made one, which trains and generates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter import FormatError, UnsupportedError
from converter.verification.result import Verification
from tests.docs.reading_pages import blocks
from tests.transformers import oracle_checks
from tests.transformers.tiny import add_noise
from tests.transformers.transformers_5 import Transformers5, differences
from tests.verification import damage

pytestmark = pytest.mark.peer

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 10,
    "max_position_embeddings": 44,
    "sliding_window": 16,
    "attn_logit_softcapping": None,  # SDPA leaves it out, and the versions choose differently
}
OTHER = {"hidden_size": 36, "num_hidden_layers": 3, "intermediate_size": 52, "head_dim": 8}
CLASS = "T5GemmaForConditionalGeneration"
RENAMED = {
    "input_layernorm": "pre_self_attn_layernorm",
    "post_attention_layernorm": "post_self_attn_layernorm",
}
"""Module of a Gemma 2 → in T5Gemma."""
CROSS = "model.decoder.layers.1.cross_attn.q_proj.weight"
COPIES = ("cross_attn.q_proj", "cross_attn.k_proj", "cross_attn.v_proj", "cross_attn.o_proj")


def gemma(directory: Path, seed: int, **changes: Any) -> Any:
    """Save a tiny Gemma 2 with noise on every parameter."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(seed)
    model = Gemma2ForCausalLM(Gemma2Config(**{**SIZES, **changes})).eval()
    add_noise(model, seed)
    model.save_pretrained(directory)
    return model


def by_hand(encoder: Any, decoder: Any, copy: bool) -> Any:
    """Return a T5Gemma with the values of two Gemma 2, put together with transformers.

    Of the paper (Zhang et al. 2025, Encoder-Decoder Gemma): both stacks take all parameters, and
    cross-attention those of the decoder's self-attention where both are of one size.
    """
    from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

    config = T5GemmaConfig(
        encoder=encoder.config.to_dict(),
        decoder=decoder.config.to_dict(),
        vocab_size=SIZES["vocab_size"],
    )
    model = T5GemmaForConditionalGeneration(config).eval()
    state = model.state_dict()
    for stack, source in (("encoder", encoder), ("decoder", decoder)):
        for name, value in source.model.state_dict().items():
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            state[f"model.{stack}.{name}"].copy_(value)
    for name, value in state.items():
        if copy and any(part in name for part in COPIES):
            value.copy_(state[name.replace("cross_attn", "self_attn")])
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any, Any]]:
    """Return name → the place of ``encoder`` and ``decoder``, and both models."""
    home = tmp_path_factory.mktemp("t5gemma")
    return {
        name: (
            home / name,
            gemma(home / name / "encoder", 1, **changes),
            gemma(home / name / "decoder", 2),
        )
        for name, changes in (("balanced", {}), ("unbalanced", OTHER))
    }


def composed(place: Path, out: Path, **options: Any) -> Path:
    converter.compose(place / "encoder", place / "decoder", out, **options)
    return out


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_it_is_the_model_that_the_authors_made(
    pairs: dict[str, tuple[Path, Any, Any]],
    transformers_5: Transformers5,
    tmp_path: Path,
    name: str,
) -> None:
    import torch

    place, encoder, decoder = pairs[name]
    out = composed(place, tmp_path / "out")
    batch = {
        "input_ids": torch.arange(14).reshape(2, 7).numpy() + 5,
        "decoder_input_ids": torch.arange(10).reshape(2, 5).numpy() + 20,
    }
    loaded = oracle_checks.load(out, "safetensors", CLASS, batch)
    assert not loaded.problems
    fifth = transformers_5.load(out, CLASS, batch)
    assert fifth and not differences(loaded, fifth, 1e-5)
    expected = by_hand(encoder, decoder, copy=name == "balanced")
    new = []
    for key, value in expected.state_dict().items():
        if key not in loaded.stored:
            assert key == "lm_head.out_proj.weight"  # tied
        elif not torch.equal(value, torch.from_numpy(loaded.stored[key])):
            new.append(key)
    fresh = [] if name == "balanced" else COPIES
    assert len(new) == len(fresh) * SIZES["num_hidden_layers"]
    assert all(any(part in key for part in fresh) for key in new)
    if name == "balanced":
        with torch.no_grad():
            logits = expected(**{key: torch.from_numpy(each) for key, each in batch.items()}).logits
        assert torch.allclose(logits, torch.from_numpy(loaded.outputs["logits"]), atol=1e-6)


def test_fresh_cross_attention_on_request(
    pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    out = composed(pairs["balanced"][0], tmp_path / "out", init="normal")
    values = load_file(out / "model.safetensors")
    new = values["model.decoder.layers.1.cross_attn.q_proj.weight"]
    assert 0.01 < new.std() < 0.03
    assert (new != values["model.decoder.layers.1.self_attn.q_proj.weight"]).all()


def test_it_trains_and_generates(pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path) -> None:
    import torch
    from transformers import T5GemmaForConditionalGeneration

    out = composed(pairs["balanced"][0], tmp_path / "out")
    model = T5GemmaForConditionalGeneration.from_pretrained(out)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    ids = torch.randint(3, SIZES["vocab_size"], (8, 5))  # the task: repeat the input
    losses = []
    for _ in range(40):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0], losses
    generated = model.eval().generate(ids, max_new_tokens=5, min_new_tokens=5)
    assert generated[0, 0] == 2  # <bos>
    assert (generated[:, 1:] == ids).float().mean() > 0.5


def test_the_page_s_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for script in blocks("t5gemma.md", "python"):
        exec(compile(script, "t5gemma.md", "exec"), names)
    loss, generated, equal = capsys.readouterr().out.splitlines()[-3:]
    assert equal == "True"
    assert float(loss) < 0.5
    written, expected = generated[1:-1].split("] [")
    assert written == expected


def test_convert_and_verify(pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    place, encoder, decoder = pairs["unbalanced"]
    by_hand(encoder, decoder, copy=False).save_pretrained(tmp_path / "own")
    converter.convert(tmp_path / "own", tmp_path / "converted", pytorch_format="both")
    first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("own", "converted")
    )
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    out = composed(place, tmp_path / "out")
    result = converter.verify(out, against=[place / "encoder", place / "decoder"])
    assert isinstance(result, Verification) and result.verified, result.problems


def test_what_does_not_become_one(pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path) -> None:
    place = pairs["balanced"][0]
    bert = Path(__file__).parents[2] / "fixtures" / "bert-tiny"
    with pytest.raises(UnsupportedError, match="Two gemma2 become one t5gemma"):
        converter.compose(bert, place / "decoder", tmp_path / "out")
    gemma(tmp_path / "larger", 3, vocab_size=70)
    with pytest.raises(UnsupportedError, match="one vocab_size for both"):
        converter.compose(tmp_path / "larger", place / "decoder", tmp_path / "out")
    with pytest.raises(UnsupportedError, match="there is no flax class"):
        composed(place, tmp_path / "out", to=["flax"])
    gemma(tmp_path / "untied", 4, tie_word_embeddings=False)
    with pytest.raises(UnsupportedError, match="output layer of T5Gemma is that of its decoder"):
        converter.compose(place / "encoder", tmp_path / "untied", tmp_path / "out")


def test_an_encoder_whose_output_layer_is_left_out(
    pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path
) -> None:
    """Untied, or that of a classifier, as of a reward model: an encoder needs neither."""
    import torch
    from transformers import Gemma2Config, Gemma2ForSequenceClassification

    untied = gemma(tmp_path / "untied", 4, tie_word_embeddings=False)
    classifier = Gemma2ForSequenceClassification(Gemma2Config(**SIZES))
    classifier.save_pretrained(tmp_path / "classifier")
    for name, model in (("untied", untied), ("classifier", classifier)):
        out = tmp_path / f"{name}-out"
        converter.compose(tmp_path / name, pairs["balanced"][0] / "decoder", out)
        loaded = oracle_checks.load(out, "safetensors", CLASS, None)
        assert not loaded.problems
        stored = loaded.stored["model.encoder.layers.1.pre_self_attn_layernorm.weight"]
        assert torch.from_numpy(stored).equal(model.model.layers[1].input_layernorm.weight.data)


@pytest.fixture(scope="module")
def own(pairs: dict[str, tuple[Path, Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a T5Gemma that transformers saved, with noise on every parameter, and dropout."""
    from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

    _, encoder, decoder = pairs["unbalanced"]
    configs = {"encoder": encoder.config.to_dict(), "decoder": decoder.config.to_dict()}
    rates = {"dropout_rate": 0.1, "attention_dropout": 0.2}
    config = T5GemmaConfig(**configs, vocab_size=SIZES["vocab_size"], **rates)
    model = T5GemmaForConditionalGeneration(config)
    add_noise(model, 5)
    directory = tmp_path_factory.mktemp("own") / "t5gemma"
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def parts(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `split` makes of it."""
    directory = tmp_path_factory.mktemp("parts") / "parts"
    warnings = converter.split(own, directory).warnings
    assert any("compute other values than in T5Gemma" in warning for warning in warnings)
    assert any("12 tensors of t5gemma" in warning for warning in warnings)
    return directory


def test_split_gives_two_gemma_2(own: Path, parts: Path, transformers_5: Transformers5) -> None:
    from safetensors.torch import load_file

    stored = load_file(own / "model.safetensors")
    batch = {"input_ids": np.arange(14).reshape(2, 7) + 5}
    for submodel, name in (("encoder", "Gemma2Model"), ("decoder", "Gemma2ForCausalLM")):
        loaded = oracle_checks.load(parts / submodel, "safetensors", name, batch)
        assert not loaded.problems
        fifth = transformers_5.load(parts / submodel, name, batch)
        assert fifth and not differences(loaded, fifth, 1e-5)
        for key, value in loaded.stored.items():
            key = f"model.{submodel}.{key.removeprefix('model.')}"
            for old, new in RENAMED.items():
                key = key.replace(f".{old}.", f".{new}.")
            assert np.array_equal(stored.pop(key).numpy(), value)
    joint = load_file(parts / "joint.safetensors")
    assert {*joint} == {*stored} and len(joint) == 6 * SIZES["num_hidden_layers"]
    assert all(joint[name].equal(value) for name, value in stored.items())


def test_compose_of_both_restores_it(own: Path, parts: Path, tmp_path: Path) -> None:
    from transformers import T5GemmaForConditionalGeneration

    composed(parts, tmp_path / "out")
    before, after = (
        T5GemmaForConditionalGeneration.from_pretrained(each) for each in (own, tmp_path / "out")
    )
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys() and all(old[name].equal(new[name]) for name in old)
    others = {"_name_or_path", "decoder_start_token_id", "architectures"}
    for first, second in (
        (before.config, after.config),
        (before.config.encoder, after.config.encoder),
        (before.config.decoder, after.config.decoder),
    ):
        first, second = (
            {key: value for key, value in each.to_dict().items() if not isinstance(value, dict)}
            for each in (first, second)
        )
        assert {*first} == {*second}
        assert {key for key in first if first[key] != second[key]} <= others
    converter.split(tmp_path / "out", tmp_path / "again")
    for file in ("encoder/model.safetensors", "decoder/model.safetensors", "joint.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (parts / file).read_bytes()


def test_selected_layers_keep_their_cross_attention(own: Path, parts: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    composed(parts, tmp_path / "out", layers=["decoder=1", "encoder=2,0"])
    loaded = oracle_checks.load(tmp_path / "out", "safetensors", CLASS, None)
    assert not loaded.problems
    old, new = (load_file(each / "model.safetensors") for each in (own, tmp_path / "out"))
    for name, value in new.items():
        for after, before in (
            (".decoder.layers.0.", 1),
            (".encoder.layers.1.", 0),
            (".encoder.layers.0.", 2),
        ):
            if after in name:
                name = name.replace(after, f"{after[:-2]}{before}.")
                break
        assert old[name].equal(value), name


def test_what_split_wrote_is_verified(own: Path, parts: Path, tmp_path: Path) -> None:
    result = converter.verify(parts, against=[own])
    assert isinstance(result, Verification) and result.verified, result.problems
    assert result.checks["outside the submodels: tensors equal to their source"] == "12 of 12"
    assert {origin.verdict for origin in result.origins.values()} == {"equal"}
    for submodel in ("encoder", "decoder"):
        comparison = converter.diff(own, parts / submodel)
        assert comparison.equal and comparison.submodel == submodel
    copy = tmp_path / "copy"
    shutil.copytree(parts, copy)
    damage.alter(copy / "joint.safetensors", [CROSS], damage.flip_bit)
    result = converter.verify(copy, against=[own])
    assert {problem.tensor for problem in result.problems} == {CROSS}
    assert len(result.problems) == 2  # neither the manifest's hash nor the source's values
    (copy / "encoder" / "model.safetensors").unlink()
    shutil.copytree(parts / "decoder", copy / "encoder", dirs_exist_ok=True)
    with pytest.raises(FormatError, match="does not fit what is composed"):
        composed(copy, tmp_path / "out")


def test_a_random_decoder_has_no_cross_attention_of_the_other(parts: Path, tmp_path: Path) -> None:
    result = converter.compose(
        parts / "encoder", parts / "decoder", tmp_path / "out", random=["decoder"], dry_run=True
    )
    assert sum(".cross_attn." in name for name in result.to_dict()["initialized"]) == 8


@pytest.fixture(scope="module")
def with_tokenizers(
    pairs: dict[str, tuple[Path, Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return two Gemma 2 with the files that published ones have next to their weights."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import GemmaTokenizerFast, GenerationConfig

    texts = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "▁", *map(chr, range(97, 123))]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    fast = GemmaTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    settings = GenerationConfig(
        bos_token_id=2, eos_token_id=[1, 4], pad_token_id=0, cache_implementation="hybrid"
    )
    home = tmp_path_factory.mktemp("published")
    for submodel in ("encoder", "decoder"):
        shutil.copytree(pairs["balanced"][0] / submodel, home / submodel)
        fast.save_pretrained(home / submodel)
        settings.save_pretrained(home / submodel)
        (home / submodel / "README.md").write_text("---\nlicense: gemma\n---\nA model.\n")
    return home


def test_tokenizer_generation_settings_and_card(with_tokenizers: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoTokenizer

    out = composed(with_tokenizers, tmp_path / "out")
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.library_name) == ("gemma", "transformers")
    assert card.data.tags == ["t5gemma"]
    assert "T5Gemma, an encoder-decoder model made of two Gemma 2" in card.text
    assert "transformers has its class for PyTorch only" in card.text
    assert "8 tensors of cross-attention are copies of those of self-attention" in card.text
    (call,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(call.replace("path/to/this-model", str(out)), names)
    model = names["model"]
    expected = AutoTokenizer.from_pretrained(with_tokenizers / "encoder")
    converter.split(out, tmp_path / "parts")
    for place in (out, tmp_path / "parts" / "encoder", tmp_path / "parts" / "decoder"):
        tokenizer = AutoTokenizer.from_pretrained(place)
        assert type(tokenizer) is type(expected)
        assert tokenizer.chat_template == expected.chat_template
        batch = tokenizer("ab c", return_tensors="pt")
        assert batch["input_ids"].tolist() == [[2, 6, 7, 5, 8]]
    assert model.generation_config.cache_implementation == "hybrid"
    generated = model.generate(**batch, max_new_tokens=3, min_new_tokens=3)
    assert generated.shape == (1, 4) and generated[0, 0] == 2
    converter.convert(out, tmp_path / "half", dtype="bfloat16")
    text = ModelCard.load(tmp_path / "half" / "README.md").text
    assert "T5Gemma, an encoder-decoder model made of two Gemma 2" in text


def test_shards_in_and_out(pairs: dict[str, tuple[Path, Any, Any]], tmp_path: Path) -> None:
    import torch
    from transformers import Gemma2ForCausalLM, T5GemmaForConditionalGeneration

    for name in ("encoder", "decoder"):
        model = Gemma2ForCausalLM.from_pretrained(
            pairs["unbalanced"][0] / name, dtype=torch.bfloat16
        )
        model.save_pretrained(tmp_path / name, max_shard_size="20kB")
        assert len(list((tmp_path / name).glob("model-*.safetensors"))) > 1
    options: dict[str, Any] = {"max_shard_size": "30kB"}
    out = composed(tmp_path, tmp_path / "out", **options)
    complete = composed(tmp_path, tmp_path / "complete")
    assert len(list(out.glob("model-*.safetensors"))) > 2
    first, second = (
        T5GemmaForConditionalGeneration.from_pretrained(
            each, dtype="auto", output_loading_info=True
        )
        for each in (out, complete)
    )
    for _, report in (first, second):
        assert not any(report.values())
    new = second[0].state_dict()
    assert all(value.equal(new[name]) for name, value in first[0].state_dict().items())
    assert {value.dtype for value in new.values()} == {torch.bfloat16}
    converter.split(out, tmp_path / "parts", **options)
    again = composed(tmp_path / "parts", tmp_path / "again", **options)
    for path in out.glob("model*"):
        assert (again / path.name).read_bytes() == path.read_bytes()
