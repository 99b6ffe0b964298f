"""Access to the machine: atomic files, devices, ranks, random seeds."""
