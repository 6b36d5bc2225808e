"""The plugin `diagnosis`."""
