"""Pure training code: LightningModules, losses, networks and data. Knows no Optuna and no MLflow."""
