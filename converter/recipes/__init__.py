"""Recipes: files that say which checkpoints are to be made, one job each."""
