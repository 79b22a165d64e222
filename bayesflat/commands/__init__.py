"""Commands of the command line, run on files."""
