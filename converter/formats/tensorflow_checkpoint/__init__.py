"""TensorFlow checkpoints, read-only: ``NAME.index`` and ``NAME.data-00000-of-00001``.

``tf.compat.v1.train.Saver`` (V2, the default since 2016) and ``tf.train.Checkpoint`` write them.
The index is a sorted string table of each tensor's dtype, shape and offset; the data files hold
the tensors' bytes. Object-based checkpoints name a variable by its attribute path followed by
``/.ATTRIBUTES/VARIABLE_VALUE``, which is removed here; their object graph is a string and, like
everything that is not numeric, skipped. Source: ``tensor_bundle.cc`` and ``types.proto`` of
tensorflow 2.20.
"""

from __future__ import annotations

from converter.formats.base import FileFormat, Reader
from converter.formats.file_handle import FileHandle
from converter.formats.tensorflow_checkpoint.reader import DTYPES, open_index
from converter.formats.tensorflow_checkpoint.sstable import MAGIC


class TensorflowCheckpointFormat(FileFormat):
    """TensorFlow checkpoints, opened by their index; see `FileFormat`."""

    name = "tensorflow-checkpoint"
    dtypes = frozenset(DTYPES.values())

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether the file ends like a sorted string table, which has no signature."""
        end = file.size - len(MAGIC)
        return end >= 0 and file.read(end, len(MAGIC)) == MAGIC

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the index alone."""
        return open_index(file)


FORMAT: FileFormat = TensorflowCheckpointFormat()
