"""What each command is called and takes. Their work stands beside this package, imported when a command runs."""
