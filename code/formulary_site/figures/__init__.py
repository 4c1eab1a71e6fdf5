"""Draws the figures of the articles."""
