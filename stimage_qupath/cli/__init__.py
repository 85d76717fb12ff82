"""The command line: each command parses, calls one flow, and prints.

Commands stand in files of their own and join the application by being imported here, in the order of ``--help``.
"""

from stimage_qupath.cli import machine  # isort: skip
from stimage_qupath.cli import predict  # isort: skip
from stimage_qupath.cli import explain  # isort: skip
from stimage_qupath.cli import train  # isort: skip
from stimage_qupath.cli import evaluate  # isort: skip
from stimage_qupath.cli.app import app
from stimage_qupath.cli.entry import main, run

__all__ = ["app", "evaluate", "explain", "machine", "main", "predict", "run", "train"]
