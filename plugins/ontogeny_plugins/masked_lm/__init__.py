"""The plugin `masked_lm`."""
