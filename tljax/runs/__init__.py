"""What lies on disk: workdirs, metrics, checkpoints, answers."""
