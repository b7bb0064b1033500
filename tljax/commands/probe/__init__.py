"""`tljax probe`: many linear heads on frozen features."""
