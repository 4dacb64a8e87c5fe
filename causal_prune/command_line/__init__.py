"""The commands: options in, calls, tables and exit codes out."""
