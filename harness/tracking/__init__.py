"""What is logged: on disk first, then sent to MLflow by a process of its own. Only this package imports mlflow."""
