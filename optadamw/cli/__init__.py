"""The command line, `optadamw COMMAND`."""
