"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Image = Annotated[Path, typer.Argument(help="H&E image: SVS, TIFF, OME-TIFF, PNG, JPEG, or what OpenSlide reads.")]
ImageOrProject = Annotated[Path, typer.Argument(help="H&E image, or a QuPath project (.qpproj, or its folder).")]
Output = Annotated[Path, typer.Option("--output", help="Run folder to make.")]
Annotations = Annotated[Path | None, typer.Option(help="GeoJSON exported from QuPath. Left out: tissue is found.")]
Classes = Annotated[str, typer.Option(help="Only annotations of these classes, separated by commas.")]
OneClass = Annotated[list[str] | None, typer.Option("--class", help="A class, commas and all; repeat for more.")]
RegionName = Annotated[list[str] | None, typer.Option(help="Only annotations of this name; repeat for more.")]
RegionId = Annotated[list[str] | None, typer.Option(help="Only annotations of this UUID; repeat for more.")]
Mpp = Annotated[float | None, typer.Option(help="um per pixel, where the image states none or a wrong one.")]
Segmenter = Annotated[str, typer.Option(help="classical, he, stardist (its public H&E model), or stardist:FOLDER.")]
NucleiPrecision = Annotated[str, typer.Option(help="Of he and stardist: float32, or bfloat16: faster, nearly equal.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch StarDist's public model where it is missing.")]
Nuclei = Annotated[Path | None, typer.Option(help="Nuclei that are there: GeoJSON or label image; none are outlined.")]
Expansion = Annotated[float, typer.Option(help="Cells reach this far beyond their nucleus, um; 0: nuclei alone.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int, typer.Option(help="Blocks that are read and segmented at once.")]
MaxBadTiles = Annotated[float, typer.Option(help="Share of unreadable tiles up to which a run goes on.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run into --output was interrupted.")]
ClearDeadLocks = Annotated[
    bool,
    typer.Option("--clear-dead-locks", help="Take over locks of other machines without a sign of life for 5 minutes."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier output.")]
Dataset = Annotated[Path, typer.Argument(help="CSV: section,patient,image,counts,spots,platform,mpp.")]
Genes = Annotated[
    Path | None,
    typer.Option(
        help="File with a gene a line, or pam50, oncotype, mcpcounter, stimage, markers, hvg:N, svg:N, detected:SHARE. "
        "Left out: the most variable."
    ),
]
PanelSize = Annotated[int, typer.Option(help="Genes to choose where no file is given.")]
EncoderName = Annotated[str, typer.Option(help="One of `stimage-qupath encoders`, timm:<model>, or some joined by +.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Checkpoint of the encoder, or a folder that holds one.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16, for encoders that are networks.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder for features. Left out: the user's cache.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute features anew and keep none.")]
LikelihoodName = Annotated[str, typer.Option("--likelihood", help="nb, or poisson for comparison.")]
RecalibrateName = Annotated[
    str, typer.Option("--recalibrate", help="Correct intervals on unseen sections: conformal, temperature, both, none.")
]
Members = Annotated[int, typer.Option(help="Members of the ensemble.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]


def words(text: str) -> tuple[str, ...]:
    """Return the words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def class_names(together: str, single: list[str] | None) -> tuple[str, ...]:
    """Return the classes given together and one by one."""
    return (*words(together), *(single or ()))
