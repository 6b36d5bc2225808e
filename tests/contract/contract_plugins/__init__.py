"""Plugins of the contract tests."""
