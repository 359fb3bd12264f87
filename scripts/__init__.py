"""What people run: sotglp NAME, python -m scripts.NAME, or the shell scripts beside it."""
