"""Reference numbers of published code, computed again with our trainers: python -m scripts.conformance."""
