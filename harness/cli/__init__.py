"""The command line: every parser, and every command that is printed. No other part imports it."""
