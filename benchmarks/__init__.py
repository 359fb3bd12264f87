"""Paired timings: python -m benchmarks, or python -m benchmarks.NAME."""
