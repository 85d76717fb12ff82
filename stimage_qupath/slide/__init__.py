"""Pixels of a slide at any scale, its pixel size and its stains."""
