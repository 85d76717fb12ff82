"""What this machine has of what the package needs, and how to mend what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stimage_qupath.config import STARTER
from stimage_qupath.errors import StimageError
from stimage_qupath.qupath.launcher import check_round_trip

CORE = (
    *("numpy", "scipy", "pandas", "pyarrow", "shapely", "geojson", "orjson", "torch", "torchvision", "timm", "captum"),
    *("stardist", "tifffile", "imagecodecs", "anndata", "h5py", "safetensors", "scikit-image", "scikit-learn"),
    *("matplotlib", "paquo"),
)
IMPORT_NAME = {"scikit-image": "skimage", "scikit-learn": "sklearn"}
JVM_STARTS_AT_IMPORT = ("paquo",)
QUPATH_PLACES = ("/opt", "/Applications", "C:/Program Files", "/usr/local", "~/Applications", "~/AppData/Local", "~")
QUPATH_NAME = re.compile(r"(?i)qupath.*")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked for.

    Attributes
    ----------
    what
        Its name.
    status
        ``ok``, ``optional`` (missing, and some feature with it) or ``missing`` (nothing works without).
    found
        Version or place.
    fix
        What to do about it; empty when ok.
    """

    what: str
    status: str
    found: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON has it."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look for everything the package can use; nothing is changed. A QuPath that is found runs ``Check setup``."""
    return [_python(), *_packages(), _device(), _openslide(), *_models(), *_qupath()]


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    for package in CORE:
        try:
            if package not in JVM_STARTS_AT_IMPORT:
                importlib.import_module(IMPORT_NAME.get(package, package))
            yield Finding(package, "ok", version(package))
        except (PackageNotFoundError, ImportError, OSError, RuntimeError) as error:
            fix = "pip install --force-reinstall torch torchvision" if "torch" in package or package == "timm" else ""
            yield Finding(package, "missing", str(error), fix or f"pip install {package}")


def _device() -> Finding:
    try:
        from stimage_qupath.prediction.device import choose_device

        device = choose_device("auto")
    except (ImportError, StimageError) as error:
        return Finding("device", "missing", str(error), "pip install torch torchvision")
    if device.type == "cpu":
        return Finding("device", "ok", f"cpu, {os.cpu_count()} cores", "")
    return Finding("device", "ok", device.type)


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        fix = 'pip install "stimage-qupath[openslide]"'
        return Finding(
            "openslide", "optional", f"{error}: NDPI, MRXS, SCN, BIF, VMS, CZI and DICOM cannot be read", fix
        )
    return Finding("openslide", "ok", openslide.__library_version__)


def _models() -> Iterator[Finding]:
    try:
        from stimage_qupath.models.checkpoint import load_model

        model = load_model(STARTER)
    except (ImportError, StimageError) as error:
        yield Finding("starter model", "missing", str(error), "pip install --force-reinstall stimage-qupath")
        return
    yield Finding("starter model", "ok", f"{len(model.panel)} genes, encoder {model.encoder.card.name}")


def _qupath() -> Iterator[Finding]:
    folder = find_qupath()
    fix = "install QuPath 0.4 to 0.7 from https://qupath.github.io, or set PAQUO_QUPATH_DIR to its folder"
    if folder is None:
        yield Finding("qupath", "optional", "not found: open the results in QuPath on another machine", fix)
        return
    yield Finding("qupath", "ok", str(folder))
    try:
        yield Finding("qupath scripts", "ok", check_round_trip(folder))
    except StimageError as error:
        yield Finding(
            "qupath scripts", "optional", str(error), "stimage-qupath install-scripts, then Check setup there"
        )


def find_qupath() -> Path | None:
    """Return the folder of QuPath: ``PAQUO_QUPATH_DIR``, the launcher on the path, or the usual places."""
    configured = os.environ.get("PAQUO_QUPATH_DIR")
    if configured:
        return Path(configured) if Path(configured).is_dir() else None
    launcher = shutil.which("QuPath")
    if launcher:
        return Path(launcher).resolve().parents[1]
    for place in QUPATH_PLACES:
        folder = Path(place).expanduser()
        if folder.is_dir():
            found = [p for p in folder.iterdir() if QUPATH_NAME.fullmatch(p.name) and _is_qupath(p)]
            if found:
                return max(found, key=lambda p: p.name)
    return None


def _is_qupath(folder: Path) -> bool:
    """Linux, macOS and Windows each keep their jars elsewhere."""
    return any((folder / inside).is_dir() for inside in ("lib/app", "Contents/app", "app"))
