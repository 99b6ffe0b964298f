"""The machine: files, devices, ranks, random seeds."""
