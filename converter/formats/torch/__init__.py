"""``pytorch_model.bin`` and its kin: what ``torch.save`` writes, as a zip archive or legacy stream.

`zip_archive` reads the archive's directory, `unpickler` interprets the pickle without executing
anything, `storages` gives its names a meaning, `state_dict` names the tensors, `reader` puts them
together; `writer` lays out new archives.
"""

from __future__ import annotations

from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader
from converter.formats.file_handle import FileHandle
from converter.formats.torch.reader import is_torch_file, open_torch_file
from converter.formats.torch.storages import DTYPES


class TorchFormat(FileFormat):
    """Reads every form of ``torch.save`` except the tar of 2016, writes the zip form.

    The readers' metadata hold ``form`` (``zip`` or ``legacy``), and of a training checkpoint
    ``wrapper`` (the key of the state dict) and ``ignored`` (other keys that hold tensors);
    ``imports`` are names that a real unpickler would import, and no state dict needs.
    """

    name = "torch"
    dtypes = DTYPES
    supports_aliases = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether it is a zip archive of a pickle, or starts with torch's magic number."""
        return is_torch_file(file, head)

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the zip directory and the pickle, or the legacy headers."""
        return open_torch_file(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create a zip archive of a state dict; aliases share a storage, metadata are not kept."""
        from converter.formats.torch.writer import create_archive

        return create_archive(spec)


FORMAT: FileFormat = TorchFormat()
"""Torch files, as ``converter.formats.registry`` finds them."""
