"""The command line: each command parses, calls one flow, and prints.

Commands stand in files of their own and join the application by being imported here, in the order of ``--help``.
"""

from stimage_qupath.cli import machine  # isort: skip
from stimage_qupath.cli import predict  # isort: skip
from stimage_qupath.cli import explain  # isort: skip
from stimage_qupath.cli import latent  # isort: skip
from stimage_qupath.cli import train  # isort: skip
from stimage_qupath.cli import train_cell_types  # isort: skip
from stimage_qupath.cli import evaluate  # isort: skip
from stimage_qupath.cli import cohort  # isort: skip
from stimage_qupath.cli import survival  # isort: skip
from stimage_qupath.cli import drug_response  # isort: skip
from stimage_qupath.cli import report  # isort: skip
from stimage_qupath.cli import export  # isort: skip
from stimage_qupath.cli import bench  # isort: skip
from stimage_qupath.cli.app import app
from stimage_qupath.cli.entry import main, run

__all__ = [
    "app",
    "bench",
    "cohort",
    "drug_response",
    "evaluate",
    "explain",
    "export",
    "latent",
    "machine",
    "main",
    "predict",
    "report",
    "run",
    "survival",
    "train",
    "train_cell_types",
]
