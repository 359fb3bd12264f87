"""What people run: python -m scripts.NAME, or the shell scripts beside it."""
