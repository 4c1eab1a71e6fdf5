"""Builds the site: binds every display formula to tested code."""
