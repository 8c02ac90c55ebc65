"""Pure training code: LightningModules, methods, losses, networks and data; imports neither Optuna nor MLflow."""
