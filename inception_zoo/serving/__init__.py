"""From weights to predictions: images in, classes out; and files to serve."""
