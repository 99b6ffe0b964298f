"""The `inception-zoo` command, with one file per subcommand."""
