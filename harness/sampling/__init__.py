"""Choose the next trial: recipes first, then Optuna's sampler or the forecast of the sampler ``front``."""
