"""The options of every command, checked: text or Python values in, settings out. Knows no parser."""
