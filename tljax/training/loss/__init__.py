"""The loss of a step: cross-entropy of smoothed, weighted or mixed labels, of one or more tasks."""
