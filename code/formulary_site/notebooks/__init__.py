"""Runs notebooks and makes pages of them."""
