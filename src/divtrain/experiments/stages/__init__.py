"""The stages an experiment is made of, a kind per file."""
