"""The built-in plugins: one sub-package each, found like everybody else's."""
