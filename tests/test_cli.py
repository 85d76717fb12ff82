"""The command line: exit codes, one sentence an error, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer
from PIL import Image

from stimage_qupath import cli

COMMANDS = sorted(typer.main.get_command(cli.app).commands)


@pytest.fixture(scope="module")
def slide(tissue_slide):
    return tissue_slide.path


def square(x, y, side=400, **properties):
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
    return str(path)


@pytest.fixture
def inside(tmp_path):
    return geojson(tmp_path / "inside.geojson", square(100, 100, objectType="annotation"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    assert cli.run([command, "--help"]) == 0
    assert f"Example: stimage-qupath {command}" in " ".join(capsys.readouterr().out.split())


def test_version_and_no_command(capsys):
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", capsys.readouterr().out.strip())


def cases():
    yield "missing image", 2, "expected an image file, found nothing", ["gone.svs"]
    yield "unknown gene", 2, "expected genes of the panel .* found NOTAGENE", ["{slide}", "--genes", "NOTAGENE"]
    yield "unknown model", 2, "expected 'starter' or the path of a model folder", ["{slide}", "--model", "none"]
    yield "unknown class", 2, "Nonsense", ["{slide}", "--classes", "Nonsense"]
    yield "no pixel size", 5, "expected a pixel size, found none .* pass --mpp", ["{flat}"]
    yield "nonsense pixel size", 5, "expected a pixel size of 0.05-5 um, found 20", ["{flat}", "--mpp", "20"]
    yield "truncated TIFF", 4, ".", ["{truncated}"]
    yield "text for an image", 4, "expected an image", ["{text}"]
    yield "bad unit", 2, "expected unit out of cells, grid", ["{slide}", "--unit", "spots"]


@pytest.mark.parametrize(("code", "message", "arguments"), [pytest.param(*c[1:], id=c[0]) for c in cases()])
def test_bad_input_is_one_sentence_and_the_right_code(code, message, arguments, slide, inside, tmp_path, capsys):
    Image.new("RGB", (600, 600), "white").save(tmp_path / "flat.png")
    (tmp_path / "truncated.tif").write_bytes(slide.read_bytes()[:2000])
    (tmp_path / "text.svs").write_text("not an image at all, whatever its name says")
    places = {"slide": slide, "flat": tmp_path / "flat.png", "truncated": tmp_path / "truncated.tif"}
    filled = [argument.format(text=tmp_path / "text.svs", **places) for argument in arguments]
    before = sorted(tmp_path.iterdir())
    assert cli.run(["predict", *filled, "--output", str(tmp_path / "out"), "--annotations", inside]) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert re.search(message, error[-1])
    assert "Traceback" not in "".join(error)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found"),
        ("{", "JSON"),
        ('{"type": "FeatureCollection", "features": []}', "found none"),
        (json.dumps(square(5000, 5000)), "expected annotations inside the image of 1110 x 1483 px"),
    ],
    ids=["empty file", "not JSON", "no annotation", "outside the image"],
)
def test_bad_annotations(content, message, slide, tmp_path, capsys):
    (tmp_path / "bad.geojson").write_text(content, encoding="utf-8")
    annotations = str(tmp_path / "bad.geojson")
    assert cli.run(["predict", str(slide), "--output", str(tmp_path / "out"), "--annotations", annotations]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert "Traceback" not in "".join(error)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.geojson"]


def test_an_unknown_option_is_a_usage_error(capsys):
    assert cli.run(["predict", "--nonsense"]) == 2
    assert cli.run(["nonsense"]) == 2


def test_segment_prints_json_and_nothing_else(slide, inside, tmp_path, capsys):
    arguments = ["segment", str(slide), "--output", str(tmp_path / "out"), "--annotations", inside, "--json"]
    assert cli.run(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["cells"] > 0
    assert captured.err == ""
    assert cli.run(arguments) == 2  # it is there now
    assert cli.run([*arguments, "--force"]) == 0


def test_a_fault_of_ours_has_a_code_of_its_own(monkeypatch, slide, inside, tmp_path, capsys):
    def broken(*arguments, **settings):
        msg = "wires crossed"
        raise RuntimeError(msg)

    monkeypatch.setattr("stimage_qupath.pipeline.predict.run", broken)
    assert cli.run(["segment", str(slide), "--output", str(tmp_path / "out"), "--annotations", inside]) == 8
    assert "internal error: RuntimeError('wires crossed')" in capsys.readouterr().err


def test_doctor_finds_everything_a_test_environment_has(capsys):
    assert cli.run(["doctor", "--json"]) == 0
    findings = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["starter model"]["status"] == "ok"
    assert findings["torch"]["status"] == "ok"
    assert findings["qupath"]["status"] in {"ok", "optional"}
    assert all(f["fix"] for f in findings.values() if f["status"] != "ok")


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, stimage_qupath, stimage_qupath.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "captum", "jpype", "paquo", "timm", "pandas"} & set(loaded)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_leaves_nothing(number, real_data, tmp_path):
    image = real_data / "her2st" / "images" / "C2.jpg"
    command = [sys.executable, "-u", "-m", "stimage_qupath", "predict", str(image), "--mpp", "0.69", "--output", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        for line in process.stderr:
            if line.startswith("nuclei: ") and not line.startswith("nuclei: 0"):
                break
        assert list(tmp_path.glob("*.partial"))
        process.send_signal(number)
        start = time.monotonic()
        assert process.wait(timeout=60) == 7
    assert time.monotonic() - start < 30
    assert not list(tmp_path.iterdir())
