"""Logging to Weights & Biases and to a CSV file."""
