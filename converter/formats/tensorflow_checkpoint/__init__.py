"""TensorFlow checkpoints, read-only: ``NAME.index`` and ``NAME.data-00000-of-00001``.

``tf.compat.v1.train.Saver`` (V2, the default since 2016) and ``tf.train.Checkpoint`` write them.
The index is a sorted string table of each tensor's dtype, shape and offset; the data files hold
the tensors' bytes. Object-based checkpoints name a variable by its attribute path followed by
``/.ATTRIBUTES/VARIABLE_VALUE``, which is removed here; their object graph is a string and, like
everything that is not numeric, skipped. Source: ``tensor_bundle.cc`` and ``types.proto`` of
tensorflow 2.20.
"""

from converter.formats.tensorflow_checkpoint.reader import FORMAT as FORMAT
