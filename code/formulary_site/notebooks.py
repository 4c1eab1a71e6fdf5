"""Notebooks."""
def problems(project, definitions): return []
def typeset(site, html, path): return html
