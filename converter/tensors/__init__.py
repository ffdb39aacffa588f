"""Tensors apart from files and models: dtypes, specifications, named axes, rearrangement."""

from converter.tensors.axes import Axes, Rearrangement
from converter.tensors.dtypes import itemsize, numpy_dtype
from converter.tensors.spec import TensorSpec

__all__ = ["Axes", "Rearrangement", "TensorSpec", "itemsize", "numpy_dtype"]
