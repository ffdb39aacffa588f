"""Flax's msgpack: a bounded reader and a writer."""
