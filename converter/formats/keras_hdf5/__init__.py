"""Keras weights in HDF5: a bounded reader and a writer."""
