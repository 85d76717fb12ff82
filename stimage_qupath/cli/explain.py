"""``explain``: how much each nucleus drove a prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, ClearDeadLocks, Device, words
from stimage_qupath.config import ExplainSettings


@app.command(epilog="Example: stimage-qupath explain run --gene ERBB2 --gene CD3D --difference ERBB2,CD3D")
def explain(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction; gets the attributions.")],
    gene: Annotated[list[str], typer.Option(help="Gene to explain; repeat for more.")],
    method: Annotated[
        str,
        typer.Option(
            help="ablation, lime, kernel_shap; and, where the encoder passes gradients, saliency, input_x_gradient, "
            "integrated_gradients, gradient_shap, guided_grad_cam."
        ),
    ] = "ablation",
    fill: Annotated[
        str, typer.Option(help="inpainted, blurred, mean_stain or white: what a nucleus gives way to.")
    ] = "white",
    target: Annotated[str, typer.Option(help="'log mean', 'member K' (from 0), epistemic or high.")] = "log mean",
    difference: Annotated[str, typer.Option(help="A,B: also the map of A minus B.")] = "",
    image: Annotated[Path | None, typer.Option(help="The slide, where it has moved since the run.")] = None,
    stride_um: Annotated[float | None, typer.Option(help="Spacing of the explained predictions, um.")] = None,
    samples: Annotated[int, typer.Option(help="Perturbations a window, of lime and kernel_shap.")] = 500,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where one with the same settings was interrupted; else start anew.")
    ] = False,
    clear_dead_locks: ClearDeadLocks = False,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Also test, on blocks of the slide, whether it is true of the model.")
    ] = False,
    faithfulness_blocks: Annotated[int, typer.Option(help="Blocks that are tested at most; 20 are needed.")] = 60,
    annotations: Annotated[
        Path | None, typer.Option(help="GeoJSON of QuPath: also count nuclei of high attribution in its classes.")
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Windows a forward pass; results do not depend on it.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Add to a run how much each nucleus drove the prediction of a gene. Faithful to the model, not to biology."""
    from stimage_qupath.pipeline import explain as explaining
    from stimage_qupath.pipeline import faithfulness as testing
    from stimage_qupath.pipeline.attribution_enrichment import add_enrichment
    from stimage_qupath.report.enrichment import enrichment_lines
    from stimage_qupath.report.faithfulness import verdict_text

    settings = ExplainSettings(
        run=run,
        genes=tuple(gene),
        method=method,
        fill=fill,
        target=target,
        difference=words(difference),
        image=image,
        stride_um=stride_um,
        samples=samples,
        resume=resume,
        clear_dead_locks=clear_dead_locks,
        faithfulness=faithfulness,
        faithfulness_blocks=faithfulness_blocks,
        annotations=annotations,
        device=device,
        batch_size=batch_size,
        seed=seed,
    )
    with console.progress(quiet=as_json) as on_progress:
        record = (testing if faithfulness else explaining).run(settings, on_progress)
    if annotations is not None:
        record |= add_enrichment(settings, annotations)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['cells']} nuclei x {len(gene)} genes in {record['seconds']:.1f} s: {record['output']}")
    for name in gene if faithfulness else ():
        console.say(f"{name}: against matched nuclei {verdict_text(record['genes'][name]['faithfulness'])}")
    for line in enrichment_lines(record.get("enrichment")):
        console.say(line)
    console.say(record["note"])
    console.say(record["research_use"])
