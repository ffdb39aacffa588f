"""TensorFlow checkpoints: an index (a sorted string table) beside data files."""
