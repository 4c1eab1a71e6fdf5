"""Builds the runnable versions that readers copy, and runs them in isolation."""
