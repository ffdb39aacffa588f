"""``pytorch_model.bin`` and its kin: what ``torch.save`` writes, as a zip archive or legacy stream.

`zip_archive` reads the archive's directory, `unpickler` interprets the pickle without executing
anything, `storages` gives its names a meaning, `state_dict` names the tensors, `reader` puts them
together; `writer` lays out new archives.
"""

from converter.formats.torch.reader import FORMAT as FORMAT
