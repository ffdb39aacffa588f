"""Tensor specifications independent of files and models: dtypes, named axes, rearrangement."""

from converter.tensors.rearrangement import Axes, Rearrangement
from converter.tensors.spec import TensorSpec, itemsize, numpy_dtype

__all__ = ["Axes", "Rearrangement", "TensorSpec", "itemsize", "numpy_dtype"]
