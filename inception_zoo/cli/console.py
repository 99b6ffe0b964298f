"""The terminal that tables are printed to."""

from rich.console import Console


def wide() -> Console:
    """Return a console of at least 128 columns, so that tables are readable."""
    return Console(width=max(Console().width, 128))
