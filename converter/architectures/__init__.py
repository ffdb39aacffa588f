"""Mapping tables: all knowledge of models, as data.

`loader` reads a TOML file strictly into the dataclasses of `schema`; `registry` finds the tables
there are; `model_spec` combines a table with a configuration into the complete list of a model's
tensors, with their names and layouts in every dialect; `lint` checks what only a complete table shows.
"""
