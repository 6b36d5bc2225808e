"""The plugin `lora`."""
