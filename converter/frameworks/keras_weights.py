"""The weights of a Keras model by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from converter.errors import MatchError, Problem, UsageError
from converter.execution.in_memory import InMemoryOutput
from converter.formats.base import Array
from converter.name_ranges import collapse_ranges
from converter.progress import Progress, ProgressCounter
from converter.tensors import numpy_dtype


class KerasWeights(Mapping[str, Array]):
    """Names of Keras variables, without the model's own name before them → values.

    Each is read when it is asked for; its checkpoint must be open still.
    """

    class_name: str
    """The class of transformers that has these variables."""

    def __init__(self, arrays: InMemoryOutput, class_name: str) -> None:
        self._arrays = arrays
        self.class_name = class_name

    def __getitem__(self, name: str) -> Array:
        """The values of a variable such as ``bert/pooler/dense/kernel:0``.

        Raises:
            KeyError: if the model has no variable of that name.
            CheckpointError: if the files cannot be read, or are closed.

        """
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def assign_to(self, model: Any, *, progress: Progress | None = None) -> None:
        """Set every variable of a Keras model, one after another.

        All names, shapes and dtypes are compared before the first is set.

        Args:
            model: a built model of `class_name`; call it once, or ``model.build_in_name_scope()``,
                so that its variables are there.
            progress: told how far the work is; see `converter.Progress`.

        Raises:
            UsageError: if the model is not built.
            MatchError: with every variable that is missing on either side, of another shape, or of
                a dtype that does not hold the values.
            CheckpointError: if the files cannot be read, or are closed.

        """
        variables = _variables(model)
        lacking = collapse_ranges(name for name in variables if name not in self._arrays)
        surplus = collapse_ranges(name for name in self._arrays if name not in variables)
        problems = [
            *(Problem("only the model has this variable", tensor=name) for name in lacking),
            *(Problem("only the checkpoint has this variable", tensor=name) for name in surplus),
            *(wrong for name in variables for wrong in self._unlike(name, variables[name])),
        ]
        if problems:
            raise MatchError(
                f"the weights do not fit the model, a {type(model).__name__}; none was set",
                problems,
                remedy=f"They are those of a {self.class_name} of this configuration.",
            )
        count = ProgressCounter(progress).start_step(
            {name: self._arrays.spec(name).nbytes for name in variables}
        )
        for name, variable in variables.items():
            values = self._arrays[name]
            variable.assign(values.astype(_dtype(variable), copy=False))
            count(name)

    def _unlike(self, name: str, variable: Any) -> Iterator[Problem]:
        if name not in self._arrays:
            return
        spec = self._arrays.spec(name)
        dtype, shape = spec.dtype, spec.shape
        if tuple(variable.shape) != shape:
            yield Problem("wrong shape", None, name, str(list(variable.shape)), str(list(shape)))
        if not np.can_cast(numpy_dtype(dtype), _dtype(variable), "safe"):
            kept = _dtype(variable).name
            yield Problem(
                "its dtype does not hold the values",
                None,
                name,
                expected=kept,
                found=dtype,
                remedy=f'to_tensorflow(dtype="{kept}") casts them',
            )


def _variables(model: Any) -> dict[str, Any]:
    """The variables of a model by their names, its own name left out."""
    try:
        weights = model.weights
    except ValueError:  # how Keras says that there are none yet
        weights = []
    if not weights:
        raise UsageError(
            f"the model, a {type(model).__name__}, has no variables yet",
            remedy="Build it first: model.build_in_name_scope(), or call it once.",
        )
    return {variable.name.split("/", 1)[-1]: variable for variable in weights}


def _dtype(variable: Any) -> np.dtype[Any]:
    """The dtype of a variable, which TensorFlow, Keras 2 and Keras 3 tell in their own ways."""
    return numpy_dtype(str(getattr(variable.dtype, "name", variable.dtype)))
