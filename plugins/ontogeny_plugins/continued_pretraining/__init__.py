"""The plugin `continued_pretraining`."""
