"""What the command line runs on files."""
