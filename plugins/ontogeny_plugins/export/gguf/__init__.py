"""GGUF: the one file that llama.cpp and its kin read."""
