"""Predictions from trained weights, and export to files for serving."""
