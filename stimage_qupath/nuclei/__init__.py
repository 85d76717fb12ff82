"""From pixels to nuclei: outlines, shape and stain."""
