"""Weights in and out: our own, and those of the public implementations."""
