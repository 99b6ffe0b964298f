"""Weights & Biases and the CSV file of a run."""
