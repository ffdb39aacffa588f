"""Checkpoint file formats: one module or package for each, reader next to writer."""
