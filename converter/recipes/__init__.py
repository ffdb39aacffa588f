"""Recipes: files of jobs, each of which writes one checkpoint."""
