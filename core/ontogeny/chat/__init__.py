"""Conversations as chat templates write them: what a model reads, and what it is to write."""
