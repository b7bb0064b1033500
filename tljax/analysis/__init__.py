"""Cost, reports and the demo: what a run means, for a person to read."""
