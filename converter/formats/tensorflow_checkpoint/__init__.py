"""TensorFlow checkpoints, read-only: ``NAME.index`` and ``NAME.data-00000-of-00001``.

``tf.compat.v1.train.Saver`` (V2, the default since 2016) and ``tf.train.Checkpoint`` write them,
and SavedModels have one. The index is a sorted string table of each tensor's dtype, shape and
offset; the data files hold the tensors' bytes. Object-based checkpoints name a variable by its
attribute path, followed by ``/.ATTRIBUTES/VARIABLE_VALUE``; it gets the name that the object graph
gives it, and what belongs to an optimizer is ignored. Whatever else is not numeric is skipped.
Source: ``tensor_bundle.cc`` and ``types.proto`` of tensorflow 2.20.
"""

from converter.formats.tensorflow_checkpoint.reader import FORMAT as FORMAT
