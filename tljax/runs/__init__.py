"""A run's files: the workdir, its metrics, checkpoints and predictions."""
