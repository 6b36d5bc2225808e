"""How rows for new tokens are made: one function for each name of `adapter.vocabulary.init`."""
