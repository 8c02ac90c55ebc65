"""The report of a study: its front, gains and confusions as tables, pictures and sentences."""
