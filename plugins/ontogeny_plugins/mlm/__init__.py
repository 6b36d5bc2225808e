"""The plugin `mlm`."""
