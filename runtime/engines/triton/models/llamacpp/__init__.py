"""A Python backend for Triton that serves GGUF models with llama.cpp on the CPU."""
