"""stimage-qupath: predicted gene expression for every nucleus of an H&E slide, inside QuPath and out.

Importing the package loads nothing heavy; ``stimage_qupath.pipeline`` holds the flows, and the command
``stimage-qupath`` starts them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("stimage-qupath")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
