"""Tensors apart from files and models: dtypes, specifications, named axes, rearrangement."""

from converter.tensors.rearrangement import Axes, Rearrangement
from converter.tensors.spec import TensorSpec, itemsize, numpy_dtype

__all__ = ["Axes", "Rearrangement", "TensorSpec", "itemsize", "numpy_dtype"]
