"""The stages of an experiment, one kind per file."""
