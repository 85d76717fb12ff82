"""Which method and fill are the most faithful, on blocks of training sections; the held-out one is not touched.

    python tests/benchmarks/attribution_faithfulness.py RUN... --blocks 5 --output choice.jsonl

RUN are finished predictions of training sections. Every candidate orders the nuclei of the same blocks; nuclei are
painted over, and restored, up to some shares of their area, with tissue from beside them, which no method was computed
with. The lead is over nuclei of like area, haematoxylin and distance to the centre. LIME and KernelSHAP play one game a
block, with the block's mean as value; integrated gradients, input x gradient and saliency are taken of the same mean.

    python tests/benchmarks/attribution_faithfulness.py HELD_OUT --blocks 30 --test --candidates METHOD:FILL --output T

tests what was chosen on a section that it was not chosen on, once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import KernelShap, Lime
from captum.attr._core.lime import get_exp_kernel_similarity_function

from stimage_qupath.attribution import ablation
from stimage_qupath.attribution.faithfulness import TestedBlock
from stimage_qupath.attribution.fills import FILLS
from stimage_qupath.attribution.lime import KERNEL_WIDTH, RIDGE
from stimage_qupath.attribution.matching import exchanged
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.repainted import Bounds
from stimage_qupath.attribution.scene import ELSEWHERE, Scene
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline.tested_blocks import open_blocks
from stimage_qupath.validation.block_effect import effect, holm

SHARES = (0.2,)
TEST_SHARES = (0.1, 0.3)
STEPS = 8
"""Of integrated gradients."""
CANDIDATES = (
    *(f"ablation:{fill}" for fill in FILLS),
    *(f"integrated_gradients:{fill}" for fill in ("inpainted", "blurred")),
    *(f"input_x_gradient:{fill}" for fill in ("inpainted", "blurred")),
    "saliency:none",
    "lime:inpainted",
    "kernel_shap:inpainted",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--genes", default="", help="separated by commas; left out: the run's first five")
    parser.add_argument("--blocks", type=int, default=5, help="of each run")
    parser.add_argument("--least-nuclei", type=int, default=100)
    parser.add_argument("--candidates", default=",".join(CANDIDATES), help="METHOD:FILL, separated by commas")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--test", action="store_true", help="the figures of the chosen candidate on a held-out section")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for run in given.runs:
        finished = read_run(run)
        model = load_model(str(finished.record["settings"]["model"]))
        genes = tuple(given.genes.split(",")) if given.genes else tuple(finished.record["genes"][:5])
        outputs = Outputs(mean_of_members(model.ensemble), genes)
        question = Question(
            encoder=model.encoder, outputs=outputs, device=torch.device("cpu"), samples=given.samples, seed=given.seed
        )
        with open_blocks(finished, model) as blocks:
            chosen = blocks.choose(given.blocks, least_nuclei=given.least_nuclei, seed=given.seed)
            for where, nuclei in chosen:
                block, bounds = blocks.read(where, nuclei)
                tested = TestedBlock(block, bounds, question, shares=TEST_SHARES if given.test else SHARES)
                about = {"run": run.name, "block": list(where), "nuclei": len(nuclei)}
                for line in (leads if given.test else scores)(block, bounds, tested, question, given):
                    with given.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(about | line) + "\n")
    if given.test:
        report(given.output)


def scores(block, bounds, tested, question, given) -> Iterator[dict]:
    """Yield what each candidate does on one block; the first line is of random orders."""
    rng = np.random.default_rng([given.seed, *tested.nuclei[:1].tolist()])
    everyone = np.arange(len(tested.nuclei))
    yield {
        "method": "random",
        "fill": "none",
        **curves(tested, [rng.permutation(everyone) for _ in question.outputs.genes]),
    }
    for candidate in given.candidates.split(","):
        method, fill = candidate.split(":")
        start = time.process_time()
        filled = block.scene.image if fill == "none" else FILLS[fill](block.scene.image, block.nuclei_mask, 1.0)
        values = METHODS[method](block.scene, bounds, filled, tested, question)
        seconds = time.process_time() - start
        orders = [np.argsort(-column, kind="stable") for column in values.T]
        controls = [exchanged(order, tested._group, rng) for order in orders]
        yield {
            "method": method,
            "fill": fill,
            "cpu_seconds": seconds,
            **curves(tested, orders),
            **{f"matched_{key}": value for key, value in curves(tested, controls).items()},
        }


def leads(block, bounds, tested, question, given) -> Iterator[dict]:
    """Yield what each candidate leads by on one block of the held-out section."""
    for candidate in given.candidates.split(","):
        method, fill = candidate.split(":")
        filled = block.scene.image if fill == "none" else FILLS[fill](block.scene.image, block.nuclei_mask, 1.0)
        values = METHODS[method](block.scene, bounds, filled, tested, question)
        found = tested.faithfulness(values, seed=given.seed, controls=1)
        yield {
            "candidate": candidate,
            "genes": question.outputs.genes,
            "lead": found.lead.tolist(),
            "lead_over_regions": found.lead_over_regions.tolist(),
            "balance": found.balance.tolist(),
        }


def report(path: Path) -> None:
    """Print effect sizes with intervals and corrected p of what ``--test`` wrote."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for candidate in dict.fromkeys(line["candidate"] for line in lines):
        own = [line for line in lines if line["candidate"] == candidate]
        genes = own[0]["genes"]
        for what, values in (
            ("matched nuclei", np.array([line["lead"][2] for line in own])),
            ("deletion alone", np.array([line["lead"][0] for line in own])),
            ("insertion alone", np.array([line["lead"][1] for line in own])),
            ("random regions", np.array([line["lead_over_regions"] for line in own])),
        ):
            effects = [effect(column, seed=0) for column in values.T]
            for gene, one, p in zip(genes, effects, holm([e.p for e in effects]), strict=True):
                print(
                    f"{candidate} over {what}, {gene}: {one.mean:.4f} [{one.ci[0]:.4f}, {one.ci[1]:.4f}], "
                    f"d {one.size:.2f} [{one.size_ci[0]:.2f}, {one.size_ci[1]:.2f}], "
                    f"{one.above} of {one.blocks} blocks, Holm p {p}"
                )
        balance = np.mean([line["balance"] for line in own], axis=(0, 3))
        print(f"{candidate}: SDs from all nuclei {balance[0].round(2)}, from controls {balance[1].round(2)}")


def curves(tested: TestedBlock, orders: list[np.ndarray]) -> dict[str, list]:
    found = [tested.painter.curve(order, gene=gene) for gene, order in enumerate(orders)]
    return {
        "deletion": np.concatenate([c.deletion for c in found], axis=1).tolist(),
        "insertion": np.concatenate([c.insertion for c in found], axis=1).tolist(),
    }


def mean_of_members(ensemble):
    """Return an ensemble of one member whose log means are the means over all members'."""
    heads = ensemble.heads
    genes = heads.bias.shape[1]
    one = dataclasses.replace(
        heads,
        projection=heads.weight.mean(axis=0, keepdims=True),
        loading=np.eye(genes, dtype=np.float32)[None],
        bias=heads.bias.mean(axis=0, keepdims=True),
        log_total_count=heads.log_total_count.mean(axis=0, keepdims=True),
    )
    return dataclasses.replace(ensemble, heads=one)


def by_ablation(scene: Scene, bounds: Bounds, filled, tested, question) -> np.ndarray:
    """Ablation of the nuclei; the background is left out, which is not ordered."""
    labels = np.where(scene.labels < scene.nuclei, scene.labels, ELSEWHERE).astype(np.int32)
    nuclei_alone = dataclasses.replace(scene, labels=labels, features=scene.nuclei)
    return ablation.attribute(nuclei_alone, filled, question).sums


def gradients_at(tested: TestedBlock, pixels: torch.Tensor) -> torch.Tensor:
    """Return the slope of the block's mean of each gene, (gene, 3, height, width), at pixels of its surroundings."""
    block = tested.repainted
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        features = block._maps.features_of(pixels)
        values = torch.as_tensor(block.weights, dtype=torch.float32) @ block.question.outputs(features)
        return torch.stack([torch.autograd.grad(v, pixels, retain_graph=True)[0] for v in values])


def by_nucleus(scene: Scene, tested: TestedBlock, pixels: torch.Tensor) -> np.ndarray:
    """Return sums over the pixels of each nucleus, (nucleus, gene), of (gene, height, width)."""
    labels = scene.labels[tested.repainted._maps.cut]
    ours = (labels >= 0) & (labels < scene.nuclei)
    values = pixels.detach().numpy()[:, ours].astype(np.float64)
    return np.stack([np.bincount(labels[ours], weights=v, minlength=scene.nuclei) for v in values], axis=1)


def from_fill(scene: Scene, bounds: Bounds, filled, tested, question, *, points) -> np.ndarray:
    """Return the difference to the filled picture times its mean gradient on the way there."""
    cut = tested.repainted._maps.cut
    gone = ((scene.labels >= 0) & (scene.labels < scene.nuclei))[cut][..., None]
    as_is, bare = (
        torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1).float()
        for p in (scene.image[cut], np.where(gone, filled[cut], scene.image[cut]))
    )
    mean = sum(weight * gradients_at(tested, bare + at * (as_is - bare)) for at, weight in points)
    return by_nucleus(scene, tested, (mean * (as_is - bare)).sum(dim=1))


def integrated_gradients(scene, bounds, filled, tested, question) -> np.ndarray:
    at, weight = np.polynomial.legendre.leggauss(STEPS)
    points = list(zip(((at + 1) / 2).tolist(), (weight / 2).tolist(), strict=True))
    return from_fill(scene, bounds, filled, tested, question, points=points)


def input_x_gradient(scene, bounds, filled, tested, question) -> np.ndarray:
    return from_fill(scene, bounds, filled, tested, question, points=[(1.0, 1.0)])


def saliency(scene, bounds, filled, tested, question) -> np.ndarray:
    cut = tested.repainted._maps.cut
    as_is = torch.from_numpy(np.ascontiguousarray(scene.image[cut])).permute(2, 0, 1).float()
    return by_nucleus(scene, tested, gradients_at(tested, as_is).abs().sum(dim=1))


def game(build: Callable) -> Callable:
    """Return a method that plays one game a block: which nuclei are there, and the block's mean."""

    def values(scene, bounds, filled, tested, question) -> np.ndarray:
        known: dict[bytes, np.ndarray] = {}

        def worth(team: np.ndarray) -> np.ndarray:
            key = np.packbits(team).tobytes()
            if key not in known:
                gone = np.append(~team, [False] * (scene.features - scene.nuclei + 1))[scene.labels]
                known[key] = tested.repainted(gone, filled)
            return known[key]

        columns = []
        for output in range(question.outputs.count):
            everyone = torch.ones(1, scene.nuclei)
            torch.manual_seed(question.seed)

            def forward(teams: torch.Tensor, output: int = output) -> torch.Tensor:
                return torch.tensor([worth(team.numpy() > 0.5)[output] for team in teams])

            found = build(forward).attribute(
                everyone, baselines=torch.zeros_like(everyone), n_samples=question.samples, perturbations_per_eval=64
            )
            columns.append(found[0].double().numpy())
        return np.stack(columns, axis=1)

    return values


def lime_of(forward: Callable) -> Lime:
    similarity = get_exp_kernel_similarity_function("cosine", kernel_width=KERNEL_WIDTH)
    return Lime(forward, interpretable_model=SkLearnRidge(alpha=RIDGE), similarity_func=similarity)


METHODS = {
    "ablation": by_ablation,
    "integrated_gradients": integrated_gradients,
    "input_x_gradient": input_x_gradient,
    "saliency": saliency,
    "lime": game(lime_of),
    "kernel_shap": game(KernelShap),
}

if __name__ == "__main__":
    main()
