"""Coverage-guided fuzzing of what people hand over: GeoJSON, request.json, tables, model cards. Needs ``atheris``.

``python tests/benchmarks/fuzz_atheris.py geojson --seconds 60`` runs one target, without a target all of them, each in
a process of its own. Anything but a read or a StimageError with an exit code and a sentence of one line is a finding:
its input stays in ``--folder`` and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from stimage_qupath.errors import StimageError

EXAMPLES = Path(__file__).parents[1] / "groovy"
PACKAGE = "stimage_qupath"
SQUARE = '{"type":"Polygon","coordinates":[[[0,0],[9,0],[9,9],[0,9],[0,0]]],"plane":{"c":-1,"z":0,"t":0}}'
PROPERTIES = (
    '{"objectType":"annotation","name":"a","classification":{"name":"Tumor","color":[200,0,0]},'
    '"measurements":{"x":1.5},"isLocked":true,"childObjects":[]}'
)
IDENTITY = "1f0d2a1c-3c1f-4a64-9b1b-6a2b4f0d9e11"
FEATURE = (
    f'{{"type":"Feature","id":"{IDENTITY}","geometry":{SQUARE},"nucleusGeometry":{SQUARE},"properties":{PROPERTIES}}}'
)
Target = Callable[[Path], object]


def geojson(path: Path) -> object:
    from stimage_qupath.geojson_dialect import read_features
    from stimage_qupath.regions.annotations import clip_to_image, read_regions

    read_features(path)
    return clip_to_image(read_regions(path).regions, 100, 100)


def request(path: Path) -> object:
    from stimage_qupath.request import read_request

    return [(image.path, image.view, image.folder_name) for image in read_request(path).images]


def dataset(path: Path) -> object:
    from stimage_qupath.spots.readers import read_dataset

    return read_dataset(path)


def model_card(path: Path) -> object:
    from stimage_qupath.models.checkpoint import load_model, model_folder

    folder = path.parent / "model"
    if not folder.exists():
        shutil.copytree(model_folder("starter"), folder, ignore=shutil.ignore_patterns("nuclei", "*trunk*"))
    (folder / "model.json").write_bytes(path.read_bytes())
    model = load_model(str(folder))
    return model.name, model.research_use, model.choose_genes(())


def seeds(target: str) -> list[bytes]:
    """Return documents that are right, to begin from."""
    if target == "geojson":
        square = SQUARE.encode()
        collection = b'{"type":"FeatureCollection","features":[' + FEATURE.encode() + b"]}"
        return [
            collection,
            square,
            FEATURE.encode(),
            b"[" + FEATURE.encode() + b"]",
            collection.replace(b"1.5", b"NaN"),
        ]
    if target == "request":
        return [path.read_bytes() for path in sorted(EXAMPLES.glob("request_*.json"))]
    if target == "dataset":
        head = b"section,patient,image,counts,spots,platform,mpp\n"
        return [head, head + b"S1,P1,a.png,a.tsv,b.tsv,legacy_st,0.5\nS2,P1,a.png,a.h5ad,,anndata,\n"]
    from stimage_qupath.models.checkpoint import model_folder

    card = json.loads((model_folder("starter") / "model.json").read_text(encoding="utf-8"))
    small = {k: v for k, v in card.items() if k not in ("genes", "held_out", "protocol")}
    small |= {"panel": card["panel"][:5], "default_genes": card["panel"][:2]}
    return [json.dumps(small).encode()]


TARGETS: dict[str, Target] = {f.__name__: f for f in (geojson, request, dataset, model_card)}
FILES = {"geojson": "a.geojson", "request": "request.json", "dataset": "t.csv", "model_card": "card.json"}


def fuzz(target: str, seconds: int, folder: Path) -> None:
    """Run one target; the process ends here."""
    import atheris

    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path = place / FILES[target]
    with atheris.instrument_imports(include=[PACKAGE]):
        for module in ("geojson_dialect", "regions.annotations", "request", "spots.readers", "models.checkpoint"):
            __import__(f"{PACKAGE}.{module}")
    read = TARGETS[target]

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except StimageError as error:
            if error.exit_code not in (2, 3, 4, 5) or not str(error) or "\n" in str(error):
                raise AssertionError(repr(error)) from error

    corpus = place / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(target)):
        (corpus / str(number)).write_bytes(seed)
    words = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={folder}/{target}-"]
    words += ["-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1", str(corpus)]
    atheris.Setup(words, one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz one target here, or each in a process of its own and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-findings"), help="where inputs that crash are kept")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.target:
        fuzz(chosen.target, chosen.seconds, folder)
    faults = 0
    for target in TARGETS:
        command = [sys.executable, __file__, target, "--seconds", str(chosen.seconds), "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        runs = re.search(r"number_of_executed_units: (\d+)|Done (\d+) runs", said)
        units = next(filter(None, runs.groups())) if runs else "?"
        print(f"{target}: {units} executions, {'passed' if done.returncode == 0 else 'FAILED'}")
        if done.returncode:
            faults += 1
            print(said[-3000:])
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
