"""Read, convert and write weights: the zoo's own, and those of public implementations."""
