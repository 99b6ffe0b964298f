"""Explanations of a trained network."""
