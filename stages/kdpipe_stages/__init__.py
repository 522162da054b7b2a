"""The command line of kdpipe: one file a command."""
