"""The data sets: one file per reader or family of readers; `datasets.readers` imports and registers them all.

Beside the readers stand what they share (`reading`, `annotations`, `archives`), images for out-of-distribution
detection (`ood`), and the commands `python -m datasets.check` and `python -m datasets.prepare`.
"""
