"""The plugin `pseudo_perplexity`."""
