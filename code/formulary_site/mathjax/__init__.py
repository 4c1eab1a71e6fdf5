"""Typesets TeX at build time, with MathJax in a Node process."""
