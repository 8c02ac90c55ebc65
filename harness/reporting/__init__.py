"""What a study found: its front, gains and confusions as tables, pictures and sentences, here and in MLflow."""
