"""The terminal, tables, progress bars, and the texts of names and numbers."""
