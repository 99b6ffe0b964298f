"""One training job: components, fit, test, checkpoints, processes."""
