"""What is not a checkpoint is named, with the step that makes it readable."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import CheckpointError, ConfigError, ConverterError
from converter.recognition import list_files, recognize_file
from tests.factories import Made, make

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 440473133\n"
)
"""Specification: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
ANNEX = "/annex/objects/SHA256E-s440473133--4d7a214614ab2935c943f9e0ff69d22e.bin\n"
DVC = "outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 440473133\n  path: model.bin\n"
PAGE = "\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
"""Magic, version, and no tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x032.1:\x00"
"""``ir_version``, ``producer_name``, ``producer_version``, ``graph`` of ``onnx.proto``."""
SAVED_MODEL = b"\x08\x01\x12\x04\x0a\x02\x12\x00"
"""``saved_model_schema_version`` and the first of ``meta_graphs`` of ``saved_model.proto``."""


def tar(data: bytes, mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("pytorch_model.bin")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return stream.getvalue()


def arrays_of(save: Callable[..., None], **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *([] if arrays else [np.ones(2)]), **arrays)
    return stream.getvalue()


FILES: Mapping[str, tuple[bytes, str, str]] = {
    "Git LFS": (POINTER.encode(), r"Git LFS pointer.*\(440,473,133 bytes\)", "git -C .* lfs pull"),
    "git-annex": (ANNEX.encode(), "git-annex", "git annex get"),
    "DVC": (DVC.encode(), "DVC.*440,473,133", "dvc pull"),
    "web page": (PAGE.encode(), "a web page", "hf download"),
    "storage error": (b'<?xml version="1.0"?><Error/>', "a web page", "hf download"),
    "text": (b"Entry not found", "is text.*'Entry not found'", "hf download"),
    "JSON text": (b'{"error":"Repository not found"}', "is text.*Repository", "hf download"),
    "empty": (b"", r"is empty", "hf download"),
    "zeros": (bytes(5000), "starts with zeros", "hf download"),
    "gzip": (gzip.compress(b"weights"), "gzip", "gunzip -k"),
    "tar": (tar(b"weights", "w"), "tar archive", "tar -xf"),
    "tar.gz": (tar(b"weights", "w:gz"), "tar archive", "tar -xf"),
    "tar.bz2": (tar(b"weights", "w:bz2"), "bzip2", "bunzip2"),
    "tar.xz": (tar(b"weights", "w:xz"), "xz", "unxz"),
    "zip": (zipped("model/config.json", "model/weights"), "zip archive that torch", "unzip"),
    "Keras 3": (zipped("metadata.json", "config.json"), "Keras 3", "save_pretrained"),
    "npz": (arrays_of(np.savez, weight=np.ones(2)), "archive of numpy", "save_file"),
    "npy": (arrays_of(np.save), "numpy array", "save_file"),
    "pickle": (pickle.dumps({"weight": [1.0]}), "pickle that torch.save did not", "torch.save"),
    "old pickle": (pickle.dumps({"weight": [1.0]}, 0), "pickle that torch.save did", "torch.save"),
    "GGUF": (GGUF, "GGUF", "made from"),
    "ONNX": (ONNX, "ONNX", "exported from"),
    "SavedModel": (SAVED_MODEL, "SavedModel", "directory"),
    "TensorFlow Lite": (b"\x20\0\0\0TFL3" + bytes(8), "TensorFlow Lite", "exported from"),
}
"""Content in place of weights → what the message says that it is, and its step."""


@pytest.fixture
def bert(tmp_path: Path) -> Made:
    return make(tmp_path / "bert", "bert")


def message(directory: Path, **options: Any) -> str:
    with pytest.raises(ConverterError) as caught:
        converter.convert(directory, directory.parent / "out", **options)
    assert not (directory.parent / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_file_is_named_with_a_step(bert, name, file):
    content, what, step = FILES[name]
    bert.file.unlink()
    (bert.directory / file).write_bytes(content)
    assert re.search(f"{file}: .*{what}.*\n.*{step}", message(bert.directory))
    (bert.directory / "config.json").unlink()  # what the file is matters more
    assert re.search(what, message(bert.directory / file))


@pytest.mark.parametrize("content", [GGUF, ONNX, SAVED_MODEL, PAGE.encode(), FILES["tar.gz"][0]])
def test_any_first_bytes_are_recognized_or_not_without_a_fault(content):
    rng = np.random.default_rng(5)
    for size in range(200):
        head = bytearray(content[:size])
        recognize_file("model.bin", bytes(head), len(head))
        for place in rng.integers(0, max(1, len(head)), 4) if head else ():
            head[place] = rng.integers(256)
        recognize_file("model.bin", bytes(head), len(head))


def test_directory_that_cannot_be_listed_is_left_out(tmp_path):
    (tmp_path / "model" / "closed").mkdir(parents=True)
    (tmp_path / "model" / "circle").symlink_to("circle")
    (tmp_path / "model" / "link").symlink_to(tmp_path)
    (tmp_path / "model" / "notes.md").write_text("")
    (tmp_path / "model" / "closed").chmod(0)
    assert "notes.md" in message(tmp_path / "model")
    (tmp_path / "model" / "closed").chmod(0o700)
    assert list_files(tmp_path / "nothing") == []


def test_step_quotes_names_for_the_shell(tmp_path):
    bert = make(tmp_path / "it's $(here)", "bert")
    bert.file.write_bytes(pickle.dumps({"weight": [1.0]}))
    _, _, command = message(bert.directory).rpartition("python -c ")
    (code,) = shlex.split(command)
    compile(code, "step", "exec")
    assert str(bert.file) in code


@pytest.mark.parametrize("given", ["weights.npz", "."])
def test_numpy_archive_is_read_after_its_step(bert, tmp_path, given):
    arrays = load_file(bert.file)
    bert.file.unlink()
    np.savez(bert.directory / "weights.npz", allow_pickle=False, **arrays)
    _, _, command = message(bert.directory / given).rpartition("python -c ")
    subprocess.run([sys.executable, "-c", *shlex.split(command)], check=True)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == arrays.keys()


def test_archive_is_read_after_its_step(bert, tmp_path):
    archive = bert.directory / "bert.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(bert.file, "model.safetensors")
    bert.file.unlink()
    _, _, command = message(archive).rpartition(": ")
    subprocess.run(shlex.split(command), check=True)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])


def test_readable_file_next_to_a_pointer_is_named(bert):
    other = make(bert.directory / "other", "bert", file_format="torch")
    shutil.copy(other.file, bert.directory)
    bert.file.write_text(POINTER)
    assert f"give {bert.directory / 'pytorch_model.bin'}" in message(bert.directory)
    (bert.directory / "pytorch_model.bin").write_text(POINTER)
    assert "next to it" not in message(bert.directory)


@pytest.mark.parametrize("content", [POINTER, ANNEX, PAGE, ""], ids=["LFS", "annex", "page", "0"])
def test_pointer_in_place_of_the_configuration_is_named(bert, content):
    (bert.directory / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config.json: is (a|empty)") as caught:
        converter.inspect(bert.directory)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "spiece.model", "merges.txt"])
def test_pointer_in_place_of_a_tokenizer_is_not_copied(bert, name):
    gpt2 = make(bert.directory.parent / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    (bert.directory / name).write_text(POINTER)
    expected = f"{name}: is a Git LFS pointer"
    assert expected in message(bert.directory)
    with pytest.raises(CheckpointError, match=expected):
        converter.compose(bert.directory, gpt2, bert.directory.parent / "out")
    with pytest.raises(CheckpointError, match=expected):
        converter.compose(gpt2, bert.directory, bert.directory.parent / "out")


def test_index_that_is_a_pointer_is_named(bert):
    bert.file.rename(bert.directory / "model-00001-of-00001.safetensors")
    (bert.directory / "model.safetensors.index.json").write_text(POINTER)
    assert "model.safetensors.index.json: is a Git LFS pointer" in message(bert.directory)


def test_graph_and_data_of_a_tensorflow_checkpoint_name_the_index(bert):
    for name in ("bert.ckpt.meta", "bert.ckpt.data-00000-of-00001"):
        (bert.directory / name).write_bytes(b"\x0a\x93\x82\x81" * 30)
        assert str(bert.directory / "bert.ckpt.index") in message(bert.directory / name)


# Directories without a weight file under the names of transformers


@pytest.mark.parametrize(
    "name", ["model.fp16.safetensors", "weights.safetensors", "model-v2.bin", "model.pt"]
)
def test_only_weight_file_is_read_under_any_name(bert, tmp_path, name):
    (bert.directory / "training_args.bin").write_bytes(pickle.dumps({}))
    (bert.directory / "optimizer.pt").write_bytes(pickle.dumps({}))
    bert.file.rename(bert.directory / name)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    assert load_file(tmp_path / "out" / "model.safetensors").keys() >= {*bert.values}


def test_several_weight_files_of_other_names_are_a_choice(bert):
    shutil.copy(bert.file, bert.directory / "last.safetensors")
    bert.file.rename(bert.directory / "best.safetensors")
    text = message(bert.directory)
    assert "several weight files: best.safetensors, last.safetensors" in text
    assert str(bert.directory / "best.safetensors") in text


LINKS = {
    "../.git/annex/objects/Xk/4Q/SHA256E-s97--4d7a.bin/SHA256E-s97--4d7a.bin": "git annex get",
    "../.dvc/cache/files/md5/a3/04afb96060aad90176268345e10355": "dvc pull",
    "../../blobs/4d7a214614ab2935c943f9e0ff69d22eadbb8f32": "hf download",
    "../store/model.safetensors": "cp -rL",
}


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_link_to_a_missing_file_is_named(bert, target, name):
    bert.file.unlink()
    (bert.directory / name).symlink_to(target)
    assert re.search(f"{name}: is a link to {target}.*\n.*{LINKS[target]}", message(bert.directory))


def split_in_two(bert: Made, names: tuple[str, str]) -> dict[str, str]:
    """Split the weight file, and return the map of an index."""
    arrays = sorted(load_file(bert.file).items())
    bert.file.unlink()
    parts = {names[0]: dict(arrays[:9]), names[1]: dict(arrays[9:])}
    for name, part in parts.items():
        save_file(part, bert.directory / name, metadata={"format": "pt"})
    return {key: name for name, part in parts.items() for key in part}


SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_shards_without_an_index_are_read_if_all_are_there(bert, tmp_path):
    split_in_two(bert, SHARDS)
    converter.convert(bert.directory, tmp_path / "read", to=["pytorch"])
    assert load_file(tmp_path / "read" / "model.safetensors").keys() >= {*bert.values}
    (bert.directory / SHARDS[0]).unlink()
    assert f"{SHARDS[0]}: is missing" in message(bert.directory)


def test_shards_of_a_variant_are_read_by_their_index(bert, tmp_path):
    shards = ("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": split_in_two(bert, shards)}
    (bert.directory / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    assert load_file(tmp_path / "out" / "model.safetensors").keys() >= {*bert.values}


LORA = {
    "peft_type": "LORA",
    "base_model_name_or_path": "google-bert/bert-base-uncased",
    "task_type": "SEQ_CLS",
    "auto_mapping": None,
    "r": 4,
    "target_modules": ["query"],
}
"""The fields of ``adapter_config.json`` that matter here, as ``PeftConfig.save_pretrained`` of
PEFT 0.17 writes them (``peft/config.py``)."""


def adapter(directory: Path, **fields: object) -> None:
    """Write an adapter as ``PeftModel.save_pretrained`` does."""
    (directory / "adapter_config.json").write_text(json.dumps({**LORA, **fields}))
    prefix = "base_model.model.bert.encoder.layer.0.attention.self.query"
    lora = {
        f"{prefix}.lora_A.weight": np.ones((4, 24)),
        f"{prefix}.lora_B.weight": np.ones((24, 4)),
    }
    save_file(lora, directory / "adapter_model.safetensors")


@pytest.mark.parametrize("with_config", [True, False])
def test_adapter_is_named_with_the_line_that_merges_it(bert, with_config):
    bert.file.unlink()
    adapter(bert.directory)
    if not with_config:
        (bert.directory / "config.json").unlink()
    text = message(bert.directory)
    assert "holds a PEFT adapter (LORA) of google-bert/bert-base-uncased" in text
    (code,) = shlex.split(text.rpartition("python -c ")[2])
    compile(code, "step", "exec")
    assert "AutoModelForSequenceClassification" in code
    assert f'"{bert.directory}").merge_and_unload()' in code


def test_adapter_that_cannot_be_merged_is_named(bert):
    bert.file.unlink()
    adapter(bert.directory, peft_type="PROMPT_TUNING")
    assert "cannot be merged" in message(bert.directory)


def moved(bert: Made, below: str) -> Path:
    """Move the checkpoint below its directory, and return the latter."""
    inner = bert.directory.rename(bert.directory.with_name("moved"))
    bert.directory.mkdir()
    (bert.directory / below).parent.mkdir(parents=True, exist_ok=True)
    inner.rename(bert.directory / below)
    return bert.directory


def test_last_of_several_training_checkpoints_is_named(bert):
    directory = moved(bert, "checkpoint-500")
    shutil.copytree(directory / "checkpoint-500", directory / "checkpoint-1000")
    text = message(directory)
    assert "checkpoint-500/, checkpoint-1000/" in text
    assert text.endswith(f"the last is {directory / 'checkpoint-1000'}")


@pytest.mark.parametrize("below", ["snapshots/0123abcd", "version_0/checkpoints"])
def test_directory_with_the_weights_is_named(bert, below):
    directory = moved(bert, below)
    assert message(directory).endswith(f": {directory / below}")


def test_module_of_a_sentence_transformer_is_named(bert):
    directory = moved(bert, "0_Transformer")
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "models.Pooling"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    text = message(directory)
    assert "SentenceTransformer" in text
    assert text.endswith(f": {directory / '0_Transformer'}")


def test_split_model_is_composed_by_its_step(bert):
    gpt2 = make(bert.directory.parent / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    directory = moved(bert, "encoder")
    gpt2.rename(directory / "decoder")
    _, _, command = message(directory).rpartition("Compose them: ")
    arguments = shlex.split(command)
    assert arguments[:2] == ["converter", "compose"]
    output = directory.parent / arguments.pop()
    converter.compose(arguments[2], arguments[3], output)


LAYOUTS = {
    "zero_to_fp32.py latest global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt": "zero_to_fp32",
    "global_step5/mp_rank_00_model_states.pt": "deepspeed.utils.zero_to_fp32",
    "pytorch_model_fsdp_0/__0_0.distcp pytorch_model_fsdp_0/.metadata": "dcp_to_torch",
    "checkpoint target.encoder.layers_0.mlp.wi.kernel/.zarray": "convert_t5x_checkpoint",
    "iter_0000500/mp_rank_00/model_optim_rng.pt latest_checkpointed_iteration.txt": "Megatron",
    "model.gguf": "GGUF",
    "model.onnx config.json": "ONNX",
    "model.keras": "Keras 3",
    "bert.tar.gz": "tar -xf",
}


@pytest.mark.parametrize("names", LAYOUTS)
def test_layout_of_another_program_is_named(tmp_path, names):
    for name in names.split():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    assert LAYOUTS[names] in message(tmp_path / "model")


def test_anything_else_is_listed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.md").write_text("")
    assert "holds no weight file (it holds notes.md)" in message(tmp_path / "model")


@pytest.mark.peer
def test_distributed_checkpoint_is_read_after_its_step(bert, tmp_path):
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as dcp

    arrays = load_file(bert.file)
    bert.file.unlink()
    state = {"model": {name: torch.from_numpy(array) for name, array in arrays.items()}}
    dcp.save(state, checkpoint_id=bert.directory / "pytorch_model_fsdp_0", no_dist=True)
    _, _, command = message(bert.directory).rpartition("Merge it: python")
    subprocess.run([sys.executable, *shlex.split(command)], check=True)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    for name, values in load_file(tmp_path / "out" / "model.safetensors").items():
        np.testing.assert_array_equal(values, arrays[name])


def test_step_of_a_keras_3_file_can_be_pasted_into_python(bert):
    bert.file.rename(bert.directory / "it's.keras")
    (call,) = re.findall(r"load_model\((.*?)\), and", message(bert.directory))
    assert json.loads(call) == str(bert.directory / "it's.keras")


def test_file_next_to_a_faiss_index_is_not_taken_for_a_checkpoint_below(bert):
    bert.file.unlink()
    (bert.directory / "index").mkdir()
    (bert.directory / "index/docs.index").write_bytes(b"IxFI")
    assert "holds no weight file (it holds" in message(bert.directory)
