"""The files of a checkpoint: configuration, shards, weights, and where they are found."""
