"""Mapping tables: all knowledge of models, as data.

`loader` reads a TOML file strictly into the structs of `schema`; `registry` finds the tables
there are; `model_spec` combines a table with a configuration into the list of a model's
parameters, with names and layouts in every dialect; `lint` checks complete tables.
"""
