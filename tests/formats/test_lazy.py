"""Reading one tensor of a 2 GB checkpoint reads its own bytes and the headers, in every format."""

from __future__ import annotations

import resource
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from converter.formats.base import FileFormat
from converter.formats.registry import get_format, open_file
from converter.tensors import TensorSpec
from tests.formats import tensorflow_checkpoints
from tests.formats.work import work_at_most
from tests.formats.writing import FILE_FORMATS, READ_ONLY

LARGE = [TensorSpec(f"model/layer_{i:02}/kernel:0", "float32", (4096, 2048)) for i in range(64)]
SMALL = TensorSpec("model/layer_31/bias:0", "float32", (512,))
HEADERS = 1 << 19
"""Bytes that headers of 65 tensors may take, in reads of the size that files are read in."""

VALUES = np.arange(512, dtype="<f4")


def sparse(file_format: FileFormat, path: Path) -> None:
    """Write a sparse file of 2 GB with values in `SMALL` alone."""
    specs = sorted([*LARGE, SMALL], key=lambda spec: spec.name)
    if file_format.name not in READ_ONLY:
        output = file_format.create(path, specs)
        output.finalize({spec.name: 0 for spec in specs})
        (segment,) = output.segments[SMALL.name]
        data, offset = path, segment.file_offset
    else:
        entries, end, offset = [(b"", tensorflow_checkpoints.HEADER)], 0, 0
        for spec in specs:
            offset = end if spec == SMALL else offset
            code = tensorflow_checkpoints.DTYPES[spec.dtype]
            content = VALUES.tobytes() if spec == SMALL else bytes(spec.nbytes)
            checksum = tensorflow_checkpoints.masked(google_crc32c.value(content))
            place = tensorflow_checkpoints.entry(
                code, spec.shape, 0, end, spec.nbytes, checksum=checksum
            )
            entries.append((spec.name.encode(), place))
            end += spec.nbytes
        tensorflow_checkpoints.write_parts(path, entries, [b""])
        (data,) = path.parent.glob(f"{path.name}.data-*")
        with data.open("r+b") as file:
            file.truncate(end)
    with data.open("r+b") as file:
        file.seek(offset)
        file.write(VALUES.tobytes())
    assert data.stat().st_size > 2 << 30
    assert data.stat().st_blocks * 512 < 16 << 20


def bytes_read() -> int:
    """Return the bytes that this process has read, in any library."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count")
@pytest.mark.parametrize("name", FILE_FORMATS)
def test_one_tensor_costs_its_own_bytes(name: str, tmp_path: Path) -> None:
    sparse(get_format(name), tmp_path / "model")
    with open_file(tmp_path / "model"):
        pass  # whatever is imported on first use
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = bytes_read()
    with work_at_most(40), open_file(tmp_path / "model") as reader:
        assert len(reader.tensors) == len(LARGE) + 1
        listed = bytes_read() - before
        assert listed < HEADERS
        assert np.array_equal(reader.tensors[SMALL.name].read(), VALUES)
        assert bytes_read() - before - listed < SMALL.nbytes + 4096
        reader.tensors[LARGE[40].name].read(0, 100, 200)
        part = LARGE[40].nbytes // 4096 * 100
        if name in READ_ONLY:  # its checksum covers the complete tensor
            part += LARGE[40].nbytes
        assert bytes_read() - before < HEADERS + SMALL.nbytes + part
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 16 << 10
