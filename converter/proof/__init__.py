"""Proof: do checkpoints hold the same numbers, and is a finished one what it should be?"""
