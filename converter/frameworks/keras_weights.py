"""The weights of a Keras model by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from converter.display import Displayed
from converter.errors import MatchError, Problem, UsageError
from converter.execution.in_memory import InMemoryOutput
from converter.formats.base import Array
from converter.progress import ProgressCounter, ProgressOption, show_progress
from converter.tensors import numpy_dtype
from converter.text import collapse_ranges


class KerasWeights(Displayed, Mapping[str, Array]):
    """A mapping of Keras variables, without the model's name as prefix, to values.

    Each is read on access, while its checkpoint is open.
    """

    class_name: str
    """The class of transformers that has these variables."""

    def __init__(self, arrays: InMemoryOutput, class_name: str) -> None:
        self._arrays = arrays
        self.class_name = class_name

    def __getitem__(self, name: str) -> Array:
        """Return the values of a variable such as ``bert/pooler/dense/kernel:0``.

        Raises:
            KeyError: if no variable has that name.
            CheckpointError: if the files cannot be read, or are closed.

        """
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def assign_to(self, model: Any, *, progress: ProgressOption = None) -> None:
        """Set every variable of a Keras model, one after another.

        All names, shapes and dtypes are compared before the first is set.

        Args:
            model: a built model of `class_name`; call it once, or ``model.build_in_name_scope()``,
                so that its variables exist.
            progress: called with the progress; see `converter.Progress`.

        Raises:
            UsageError: if the model is not built.
            MatchError: with every variable that is missing on either side, or whose shape or dtype
                does not fit.
            CheckpointError: if the files cannot be read, or are closed.

        """
        variables = _variables(model)
        missing = collapse_ranges(name for name in variables if name not in self._arrays)
        unexpected = collapse_ranges(name for name in self._arrays if name not in variables)
        problems = [
            *(Problem("only the model has this variable", tensor=name) for name in missing),
            *(Problem("only the checkpoint has this variable", tensor=name) for name in unexpected),
            *(
                problem
                for name, variable in variables.items()
                for problem in self._mismatches(name, variable)
            ),
        ]
        if problems:
            raise MatchError(
                f"the weights do not fit the model, a {type(model).__name__}; none was set",
                problems,
                remedy=f"They are those of a {self.class_name} of this configuration.",
            )
        nbytes = {name: self._arrays.spec(name).nbytes for name in variables}
        with show_progress(progress, "loading") as shown:
            count = ProgressCounter(shown).start_step(nbytes)
            for name, variable in variables.items():
                values = self._arrays[name]
                variable.assign(values.astype(_dtype(variable), copy=False))
                count(name)

    def _mismatches(self, name: str, variable: Any) -> Iterator[Problem]:
        if name not in self._arrays:
            return
        spec = self._arrays.spec(name)
        dtype, shape = spec.dtype, spec.shape
        if tuple(variable.shape) != shape:
            yield Problem("wrong shape", None, name, str(list(variable.shape)), str(list(shape)))
        if not np.can_cast(numpy_dtype(dtype), _dtype(variable), "safe"):
            kept = _dtype(variable).name
            yield Problem(
                "its dtype cannot hold the values",
                None,
                name,
                expected=kept,
                found=dtype,
                remedy=f'to_tensorflow(dtype="{kept}") casts them',
            )


def _variables(model: Any) -> dict[str, Any]:
    """Return the variables of a model by their names, without its own name."""
    try:
        weights = model.weights
    except ValueError:  # raised by Keras if the model is not built
        weights = []
    if not weights:
        raise UsageError(
            f"the model, a {type(model).__name__}, has no variables yet",
            remedy="Build it first: model.build_in_name_scope(), or call it once.",
        )
    return {variable.name.split("/", 1)[-1]: variable for variable in weights}


def _dtype(variable: Any) -> np.dtype[Any]:
    """Return the dtype of a variable of TensorFlow, Keras 2 or Keras 3."""
    return numpy_dtype(str(getattr(variable.dtype, "name", variable.dtype)))
