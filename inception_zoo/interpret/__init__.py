"""Explain the predictions of a trained network."""
