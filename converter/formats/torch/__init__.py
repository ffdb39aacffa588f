"""``pytorch_model.bin`` and its kin: what ``torch.save`` writes, as a zip archive or legacy stream.

`zip_archive` reads the archive's directory, `unpickler` interprets the pickle without executing
anything, `storages` gives its names a meaning, `state_dict` names the tensors, `reader` puts them
together; `writer` lays out new archives. They are imported on first use.
"""

from __future__ import annotations

from converter.errors import FormatError
from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader
from converter.formats.file_handle import FileHandle, closed_on_error
from converter.tensors import NAMES

_MAGIC_OPCODE = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The opcode that pushes the magic number, near the start of every legacy file."""
_TAR_RECORDS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")


class TorchFormat(FileFormat):
    """Reads every form of ``torch.save`` except the tar of 2016, writes the zip form.

    The readers' metadata hold ``form`` (``zip`` or ``legacy``), and of a training checkpoint
    ``wrapper`` (the key of the state dict) and ``ignored`` (other keys that hold tensors);
    ``imports`` are names that a real unpickler would import, and no state dict needs.
    """

    name = "torch"
    dtypes = frozenset(NAMES)  # torch has a dtype of the same name for each
    supports_aliases = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether it is a zip archive of a pickle, or starts with torch's magic number."""
        if not head.startswith(b"PK"):
            return (head[:1] == b"\x80" and _MAGIC_OPCODE in head[:32]) or _is_tar(file, head)
        from converter.formats.torch.zip_archive import read_directory

        try:
            return any(name.endswith("/data.pkl") for name in read_directory(file))
        except FormatError:
            return True  # it may be torch's: opening it reports the damage

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the zip directory and the pickle, or the legacy headers."""
        from converter.formats.torch.reader import open_legacy, open_zip

        with closed_on_error(file):
            head = file.read(0, min(64, file.size))
            if head.startswith(b"PK"):
                return open_zip(file)
            if _is_tar(file, head):
                raise file.error(
                    "the tar form that torch wrote in 2016 is not supported",
                    remedy="load it with torch.load(…, weights_only=False) where you trust it, "
                    "and save it again with torch.save",
                )
            return open_legacy(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create a zip archive of a state dict; aliases share a storage, metadata are not kept."""
        from converter.formats.torch.writer import create_archive

        return create_archive(spec)


def _is_tar(file: FileHandle, head: bytes) -> bool:
    """Return whether it is the tar archive that torch wrote before version 0.1.10."""
    return head.startswith(_TAR_RECORDS) and file.size >= 512 and file.read(257, 5) == b"ustar"


FORMAT: FileFormat = TorchFormat()
