"""The `inception-zoo` command: a file per command."""
