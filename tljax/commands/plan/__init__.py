"""`tljax plan`: what a config would train, freeze and cost."""
