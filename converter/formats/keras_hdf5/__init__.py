"""``tf_model.h5``: the weights of a Keras model by layer, as transformers' TF classes store them.

A root attribute ``layer_names`` lists groups; each group's ``weight_names`` lists its datasets by
full variable name. Loading removes the first component of a variable's name, an instance name
without meaning (``tf_bert_model/bert/…/kernel:0`` is ``bert/…/kernel:0``), and so does `reader`.

A shard of a larger model is flat: ``layer_names`` lists datasets, by names without the first
component, except those with ``model.`` in them.

Source: ``modeling_tf_utils.py`` of transformers 4.57.6, ``hdf5_format.py`` of tf-keras 2.20.1.
"""

from __future__ import annotations

from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader
from converter.formats.file_handle import FileHandle
from converter.formats.keras_hdf5.structures import DTYPES, SIGNATURE


class KerasHdf5Format(FileFormat):
    """Keras HDF5 files of transformers' TensorFlow classes; h5py is loaded on first use."""

    name = "keras-hdf5"
    dtypes = DTYPES
    supports_aliases = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether the file starts with HDF5's signature."""
        return head.startswith(SIGNATURE)

    def open(self, file: FileHandle) -> Reader:
        """List the datasets; see `FileFormat.open`."""
        from converter.formats.keras_hdf5.reader import open_hdf5

        return open_hdf5(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create the file; see `converter.formats.keras_hdf5.writer.create_hdf5`."""
        from converter.formats.keras_hdf5.writer import create_hdf5

        return create_hdf5(spec)


FORMAT: FileFormat = KerasHdf5Format()
