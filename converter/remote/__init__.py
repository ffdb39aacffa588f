"""Sources and outputs on other machines, named by a URL that ``fsspec`` understands.

``fsspec`` and the library of a protocol are imported when a reference turns out to be a URL.
"""
