"""Run folders → one HTML page that needs nothing else."""
