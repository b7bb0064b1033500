"""The loss of a step: that of a problem with smoothed, weighted or mixed labels; several tasks."""
