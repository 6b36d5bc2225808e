"""The plugin `freeze`."""
