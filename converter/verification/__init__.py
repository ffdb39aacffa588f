"""Checks that prove that a finished checkpoint is what it should be."""
