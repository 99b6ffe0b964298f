"""Write run folders as one self-contained HTML page."""
