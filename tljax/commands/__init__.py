"""One file for each subcommand of `tljax`: its arguments, what it does, what it prints."""
