"""What is tried next: recipes first, then what a model of all learning curves expects of students."""
