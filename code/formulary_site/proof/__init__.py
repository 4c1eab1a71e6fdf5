"""Binds tests to the objects they prove, and keeps the evidence."""
