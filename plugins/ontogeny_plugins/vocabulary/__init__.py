"""The plugin `vocabulary`."""
