"""A web page on which pictures are tried: served to this machine alone, and asking nothing of any other.

view.py turns a result into html, building.py makes the page of it, serving.py serves it.
"""
