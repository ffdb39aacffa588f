"""The number of parameters is that of transformers: tied ones count once, and buffers do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter import compose, inspect, verify
from converter.architectures.registry import ArchitectureRegistry
from tests.transformers.tiny import build, tiny

pytestmark = pytest.mark.peer

TIED = ("bert BertForMaskedLM", "gpt2 GPT2LMHeadModel", "albert AlbertForMaskedLM")
BUFFERS = (
    *("resnet ResNetModel", "ibert IBertModel", "sam SamModel", "mega MegaModel"),
    *("swin SwinModel", "mbart MBartForConditionalGeneration"),
)


@pytest.mark.parametrize("case", [*TIED, *BUFFERS])
@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])
def test_the_number_of_parameters_is_that_of_transformers(
    case: str, safetensors: bool, tmp_path: Path
) -> None:
    """In `pytorch_model.bin` tied weights have two names, in safetensors one."""
    architecture, name = case.split()
    assert name in ArchitectureRegistry().architecture(architecture).models
    spec = tiny(architecture)
    model = build(spec, name, spec.config)
    model.save_pretrained(tmp_path, safe_serialization=safetensors)
    assert inspect(tmp_path).parameters == model.num_parameters()


@pytest.mark.parametrize("share", [False, True], ids=["pair", "shared"])
def test_those_of_a_composition_and_of_its_page_are_too(share: bool, tmp_path: Path) -> None:
    from transformers import EncoderDecoderModel

    sources = []
    for role, name in (("encoder", "BertModel"), ("decoder", "BertLMHeadModel")):
        sources.append(tmp_path / role)
        build(tiny("bert"), name, tiny("bert").config).save_pretrained(sources[-1])
    second = sources[0] if share else sources[1]
    out = tmp_path / "out"
    compose(sources[0], second, out, share=share, pytorch_format="both")
    expected = EncoderDecoderModel.from_pretrained(out).num_parameters()
    for file in ("", "tf_model.h5", "pytorch_model.bin"):
        report = inspect(out / file)
        assert report.parameters == report.to_dict()["parameters"] == expected, file
    page = verify(out, value_report=True).value_report
    assert page is not None and page.parameters == expected
