"""From the user's files to batches that are a pure function of (seed, step)."""
