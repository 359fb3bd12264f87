"""A small training toolbox with Dassl's API: configuration, data, optimisation, training, evaluation."""
