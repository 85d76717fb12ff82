"""The page of a run, opened in a real browser."""

from __future__ import annotations

import html
import json
import re
import uuid

import numpy as np
import pytest
import shapely
from PIL import Image

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config.report import ReportSettings
from stimage_qupath.errors import AnnotationError, OutputExistsError, UnknownGeneError, UsageError
from stimage_qupath.export.run_columns import NewColumns, add_columns
from stimage_qupath.export.run_folder import RunWriter, read_run
from stimage_qupath.pipeline import report
from stimage_qupath.pipeline.run_slide import open_run_slide
from stimage_qupath.results import Cells, Panel, Prediction, Region
from stimage_qupath.slide.reader import open_slide

EVIL = "</script><script>alert(1)</script>"
GENES = ("ERBB2", "HLA-A", "<b>$x$</b>")
SIZE = (1600, 1200)
CARD = {
    "name": EVIL,
    "panel": list(GENES),
    "reference_total": 5000.0,
    "likelihood": "negative binomial",
    "training": {"patients": 2, "licence": "CC BY 4.0", "sections": [{"name": "S1"}, {"name": EVIL}]},
    "encoder": {"name": "context", "tile_um": 200.0, "mpp": 1.0, "source": "somewhere"},
    "genes": {"ERBB2": {"pcc_residual": 0.42, "ci": [0.3, 0.5]}, "HLA-A": {"pcc_residual": 0.05, "ci": [-0.1, 0.2]}},
    "held_out": {
        "outer": {
            "split": "leave one out",
            "sections": {
                "S1": {
                    "pcc_residual_mean": {"value": 0.2, "ci": [0.1, 0.3]},
                    "coverage": {"0.5": 0.52, "0.9": 0.91},
                    "same_patient_in_training": True,
                }
            },
        }
    },
}


def nuclei(n, seed=0):
    """Return n nuclei, the first half in the left region; ERBB2 is their x in pixels over 100."""
    rng = np.random.default_rng(seed)
    centroids = rng.uniform((10, 10), (SIZE[0] - 10, SIZE[1] - 10), (n, 2))
    centroids = centroids[np.argsort(centroids[:, 0])]
    angle = np.arange(6) * np.pi / 3
    ring = centroids[:, None, :] + 3 * np.column_stack([np.cos(angle), np.sin(angle)])
    cells = Cells(
        ids=np.array([str(uuid.UUID(int=i + 1)) for i in range(n)], dtype=object),
        polygons=shapely.polygons(ring),
        centroids_px=centroids,
        measurements={names.AREA: np.full(n, 30, np.float32), names.HEMATOXYLIN_MEAN: rng.random(n).astype(np.float32)},
        classifications=np.where(np.arange(n) % 3 == 0, "Tumor", EVIL).astype(object),
    )
    mean = np.column_stack([centroids[:, 0] / 100, 5 + np.cos(centroids[:, 1] / 100), rng.gamma(2, 2, n)])
    mean = mean.astype(np.float32)
    score = np.where(np.arange(n) < n // 50, 1.5, 0.6).astype(np.float32)
    return cells, Prediction(mean=mean, aleatoric=mean + 1, epistemic=0.04 * mean**2, ood_score=score)


def make_run(folder, n, *, image=True):
    """Write a slide and a run of it with two regions; one bears a name that is a script."""
    slide = folder / "slide & more.png"
    if image:
        x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        pixels = np.stack([230 - x // 20, 150 + y // 30, 200 + 0 * x], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(slide, compress_level=1)
        with open_slide(slide) as opened:
            content = opened.content_id()
    else:
        content = "none"
    cells, prediction = nuclei(n)
    half = [shapely.box(0, 0, SIZE[0] / 2, SIZE[1]), shapely.box(SIZE[0] / 2, 0, *SIZE)]
    left = cells.centroids_px[:, 0] < SIZE[0] / 2
    with RunWriter(folder / "run", panel=Panel(GENES), genes=GENES, model_card=CARD) as writer:
        for number, (area, inside) in enumerate(zip(half, (left, ~left), strict=True)):
            region = Region(
                id=str(uuid.UUID(int=900 + number)),
                geometry=area,
                name=EVIL if number == 0 else "right",
                classification="Tumor",
                color=(200, 0, 0),
            )
            writer.start_region(region)
            index = np.flatnonzero(inside)
            part = Prediction(*(getattr(prediction, f)[index] for f in ("mean", "aleatoric", "epistemic", "ood_score")))
            writer.append(cells.take(index), part)
        writer.finish(
            {
                "command": "predict",
                "settings": {"image": str(slide), "view": []},
                "image": {"name": slide.name, "content_id": content, "width": 1600, "height": 1200, "mpp": 0.5},
                "model": {"name": "m", "encoder": CARD["encoder"]},
                "device": "cpu",
                "research_use": names.research_use(2),
                "warnings": [EVIL],
                "versions": {"stimage-qupath": "1"},
                "stages": {"nuclei": {"seconds": 2.0, "items": n, "items_per_second": n / 2}},
                "seconds": 3.0,
            }
        )
    return folder / "run"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report"), 3000)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    ring = [[1000, 100], [1400, 100], [1400, 500], [1000, 500], [1000, 100]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "name": EVIL, "classification": {"name": EVIL, "color": [0, 90, 0]}},
    }
    path = tmp_path_factory.mktemp("drawn") / "drawn.geojson"
    path.write_text(json.dumps([feature]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(run_folder, annotations):
    return report.run(ReportSettings(run=run_folder, annotations=annotations, permutations=99))


@pytest.fixture
def page(made, run_folder, browser):
    """Return the browser with the page open, in a light window."""
    browser.look_like(dark=False)
    browser.open(run_folder / names.REPORT_HTML)
    return browser


def data_of(page, attribute):
    return page.run(f"document.getElementById('view').dataset.{attribute}")


def test_the_page_says_what_the_run_holds(made, run_folder):
    text = (run_folder / names.REPORT_HTML).read_text(encoding="utf-8")
    assert made["bytes"] == len(text.encode())
    assert made["nuclei"] == made["drawn"] == 3000
    assert text.count(html.escape(names.research_use(2))) == 1
    assert "10.1038/s41467-026-68487-0" in text
    assert "0.42 [0.30, 0.50]" in text
    assert "interval includes 0" in text
    assert "no held-out evidence that this model can predict HLA-A, &lt;b&gt;$x$&lt;/b&gt;" in text
    assert "mean r 0.200 [0.100, 0.300] (leave one out, the same patient in training)" in text
    assert EVIL not in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    spatial = json.loads((run_folder / names.SPATIAL_JSON).read_bytes())
    assert spatial == json.loads(json.dumps(made["spatial"]))
    assert spatial["genes"]["ERBB2"]["moran_i"] > 0.9  # a ramp
    assert abs(spatial["genes"][GENES[2]]["moran_i"]) < 0.1  # noise
    assert sum(spatial["genes"]["ERBB2"]["clusters"].values()) == 3000
    assert spatial["genes"]["ERBB2"]["clusters"]["high among high"] > 500


def test_it_opens_without_fault_and_asks_for_nothing(page, run_folder):
    assert page.faults() == []
    assert page.requests() == [(run_folder / names.REPORT_HTML).as_uri()]
    assert page.run("document.querySelectorAll('script:not([type])').length") == 1
    assert page.run("document.title").startswith("slide & more.png")
    assert page.run("document.querySelector('#regions tbody th button').textContent") == EVIL
    assert page.run("[...document.querySelectorAll('#gene option')].map(o => o.value)") == list(GENES)


def test_injected_script_would_not_run_either(page):
    """The content policy names our one script; any other is refused, and the browser says so."""
    page.run("(() => { const s = document.createElement('script'); s.textContent = 'window.hit = 1';"
             "document.body.append(s); })()")  # fmt: skip
    assert page.run("window.hit") is None
    assert any("Content Security Policy" in fault for fault in page.faults())


def test_layers_are_switched_and_the_picture_changes(page, tmp_path):
    assert data_of(page, "layer") == "ERBB2 mean"
    assert int(data_of(page, "drawn")) == 3000
    before = page.picture(tmp_path / "a.png")
    page.run("[...document.querySelectorAll('input[name=quantity]')].find(i => i.value === 'epistemic SD').click()")
    page.settle()
    assert data_of(page, "layer") == "ERBB2 epistemic SD"
    assert page.picture(tmp_path / "b.png") != before
    quantities = page.run("[...document.querySelectorAll('input[name=quantity]')].map(i => i.value)")
    assert quantities == ["mean", "total SD", "epistemic SD", "clusters"]
    page.run("(() => { const s = document.getElementById('other'); s.value = [...s.options].find("
             "o => o.textContent === 'cell type').value; s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert data_of(page, "layer") == "cell type"
    legend = page.run("document.getElementById('legend').textContent")
    assert "Tumor (1,000)" in legend
    assert f"{EVIL} (2,000)" in legend


def test_keys_move_zoom_and_change_the_gene(page):
    page.run("document.getElementById('view').focus()")
    scale, corner = float(data_of(page, "scale")), data_of(page, "corner")
    page.press("+")
    assert float(data_of(page, "scale")) == pytest.approx(1.4 * scale, rel=1e-3)
    assert int(data_of(page, "nucleus")) >= 0  # the one in the middle is read out
    page.press("ArrowRight")
    page.press("0")
    assert (float(data_of(page, "scale")), data_of(page, "corner")) == (scale, corner)
    page.press(".")
    assert data_of(page, "layer") == "HLA-A mean"
    page.press("]")
    assert data_of(page, "layer") == "HLA-A total SD"
    page.press("a")
    assert page.run("document.getElementById('annotations').checked") is False
    page.press("ArrowDown")
    assert data_of(page, "corner") != corner


def test_the_pointer_reads_the_nearest_nucleus(page):
    left, top, scale = (
        page.run("document.getElementById('view').getBoundingClientRect().left"),
        page.run("document.getElementById('view').getBoundingClientRect().top"),
        float(data_of(page, "scale")),
    )
    x0, y0 = map(float, data_of(page, "corner").split(","))
    cells, prediction = nuclei(3000)
    wanted = 1234
    x, y = cells.centroids_px[wanted]
    page.mouse("mouseMoved", left + (x - x0) * scale, top + (y - y0) * scale)
    rows = page.run("[...document.querySelectorAll('#values dt')].map(t => [t.textContent, t.nextSibling.textContent])")
    values = dict(rows)
    assert values["place, px"] == f"{round(x)}, {round(y)}"
    assert float(values["ERBB2, mean"]) == pytest.approx(prediction.mean[wanted, 0], rel=5e-3)
    total = np.sqrt(prediction.aleatoric + prediction.epistemic)[wanted, 0]
    assert float(values["ERBB2, total SD"]) == pytest.approx(total, rel=5e-3)
    assert float(values["OOD score"]) == 0.6
    assert page.run("document.getElementById('tip').hidden") is False
    page.mouse("mouseWheel", left + 300, top + 200, deltaX=0, deltaY=-240)
    assert float(data_of(page, "scale")) > 1.5 * scale


def test_tables_sort_and_lead_to_the_slide(page):
    column = "[...document.querySelectorAll('#genes tbody th')].map(c => c.textContent)"
    click = "document.querySelectorAll('#genes thead button')[4].click()"
    page.run(click)
    assert page.run(column) == ["ERBB2", "HLA-A", "<b>$x$</b>"]
    assert page.run("document.querySelectorAll('#genes thead th')[4].getAttribute('aria-sort')") == "descending"
    page.run(click)
    assert page.run(column) == ["<b>$x$</b>", "HLA-A", "ERBB2"]
    page.run("document.querySelector('#genes button[data-gene=\"HLA-A\"]').click()")
    assert data_of(page, "layer") == "HLA-A mean"
    scale = float(data_of(page, "scale"))
    page.run("document.querySelector('button[data-region=\"2\"]').click()")
    page.settle()
    assert float(data_of(page, "scale")) > 1.5 * scale
    assert page.run("document.activeElement.id") == "view"


def test_the_theme_follows_the_system_and_the_switch(page, tmp_path):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.look_like(dark=True)
    dark = page.run(background)
    assert dark != light
    page.run("document.getElementById('theme').click()")
    assert page.run("document.getElementById('theme').textContent") == "Theme: light"
    assert page.run(background) == light
    page.look_like(dark=False)
    page.run("document.getElementById('theme').click()")
    assert page.run(background) == dark
    page.run("document.getElementById('theme').click()")
    assert page.run(background) == light


def test_nothing_is_wider_than_a_telephone(page):
    page.look_like(dark=False, width=380, height=800, phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 380
    box = page.run(
        "(() => { const r = document.querySelector('.use').getBoundingClientRect(); return [r.top, r.bottom] })()"
    )
    assert 600 < box[0] < box[1] <= 800  # the sentence on use stays in sight


def test_every_control_has_a_name_and_every_picture_a_description(page):
    nameless = page.run(
        "[...document.querySelectorAll('button, select, input, canvas')].filter(e => !(e.getAttribute('aria-label') ||"
        "e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.run("[...document.images].filter(i => !i.alt && i.id !== 'background').length") == 0


@pytest.mark.slow
def test_a_large_run_is_small_and_opens_fast(browser, tmp_path):
    folder = make_run(tmp_path, 50_000)
    found = report.run(ReportSettings(run=folder))
    assert found["drawn"] == 50_000
    assert found["bytes"] < 25_000_000
    browser.look_like(dark=False)
    browser.open(folder / names.REPORT_HTML)
    assert int(data_of(browser, "drawn")) == 50_000
    assert float(browser.run("document.documentElement.dataset.ready")) < 3000  # ms since the page was asked for


def test_a_slide_that_is_gone_leaves_a_page_without_it(tmp_path, browser):
    folder = make_run(tmp_path, 60, image=False)
    found = report.run(ReportSettings(run=folder, permutations=99))
    assert "shows no slide: expected the slide of the run at" in found["warnings"][0]
    browser.look_like(dark=False)
    browser.open(folder / names.REPORT_HTML)
    assert browser.faults() == []
    assert int(data_of(browser, "drawn")) == 60
    with pytest.raises(UsageError, match=r"expected the slide of the run at .*gone.svs"):
        report.run(ReportSettings(run=folder, slide=tmp_path / "gone.svs"))
    (tmp_path / "other.png").write_bytes(b"")
    Image.new("RGB", (30, 30)).save(tmp_path / "other.png")
    with pytest.raises(UsageError, match="found another one"), open_run_slide(read_run(folder), tmp_path / "other.png"):
        pass


def test_nuclei_alone_have_a_page_too(tmp_path, browser):
    cells, _ = nuclei(80)
    with RunWriter(tmp_path / "run", panel=None, model_card={}) as writer:
        writer.start_region(Region(id=str(uuid.UUID(int=5)), geometry=shapely.box(0, 0, *SIZE), source="tissue"))
        writer.append(cells, None)
        writer.finish(
            {
                "settings": {"image": "gone.png"},
                "image": {"name": "a", "content_id": "x", "width": 1600, "height": 1200, "mpp": 0.5},
                "model": None,
                "research_use": None,
                "warnings": [],
                "versions": {"stimage-qupath": "1"},
            }
        )
    found = report.run(ReportSettings(run=tmp_path / "run"))
    assert found["spatial"] == {}
    text = (tmp_path / "run" / names.REPORT_HTML).read_text(encoding="utf-8")
    assert "nothing was predicted in this run" in text
    browser.look_like(dark=False)
    browser.open(tmp_path / "run" / names.REPORT_HTML)
    assert browser.faults() == []
    assert data_of(browser, "layer") == "cell type"
    with pytest.raises(UnknownGeneError, match="nuclei alone"):
        report.run(ReportSettings(run=tmp_path / "run", genes=("ERBB2",)))


def test_the_command_writes_where_it_is_told(made, run_folder, annotations, tmp_path, capsys):
    output = tmp_path / "page.html"
    words = ["report", str(run_folder), "--output", str(output), "--genes", "HLA-A", "--permutations", "99"]
    assert run_command(words) == 0
    assert "report of 3000 nuclei" in capsys.readouterr().out
    assert "Annotations" not in output.read_text(encoding="utf-8").split("<script")[0]
    assert run_command(words) == 2
    assert "force its replacement (--force)" in capsys.readouterr().err
    assert run_command([*words, "--force", "--json", "--annotations", str(annotations)]) == 0
    assert json.loads(capsys.readouterr().out)["genes"] == ["HLA-A"]
    with pytest.raises(UnknownGeneError, match="NOPE"):
        report.run(ReportSettings(run=run_folder, genes=("NOPE",)))
    with pytest.raises(OutputExistsError, match="found the folder"):
        report.run(ReportSettings(run=run_folder, output=tmp_path))
    (tmp_path / "empty.geojson").write_text("[]", encoding="utf-8")
    with pytest.raises(AnnotationError):
        report.run(ReportSettings(run=run_folder, annotations=tmp_path / "empty.geojson"))


def test_what_other_commands_left_in_the_run_is_shown(tmp_path, browser):
    folder = make_run(tmp_path, 200)
    values = np.linspace(-1, 3, 200).astype(np.float32)
    score = np.arange(200, dtype=np.float32)
    measured = {
        names.gene_measurement("ERBB2", "attribution"): values,
        names.signature_measurement("Fibroblasts", "score"): score,
    }
    add_columns(read_run(folder), NewColumns(measurements=measured))
    Image.new("RGB", (40, 30)).save(folder / names.LATENT_PNG.format(what="umap"))
    report.run(ReportSettings(run=folder, permutations=99))
    browser.look_like(dark=False)
    browser.open(folder / names.REPORT_HTML)
    layers = browser.run("JSON.parse(document.getElementById('about').textContent).layers")
    shown = {(layer["gene"], layer["quantity"]): layer for layer in layers}
    assert shown["ERBB2", "attribution"]["scale"] == "diverging"
    low, high = shown["ERBB2", "attribution"]["limits"]
    assert -low == high == pytest.approx(np.percentile(np.abs(values), 99))
    assert names.FAITHFUL_TO_MODEL in shown["ERBB2", "attribution"]["unit"]
    assert shown[None, "Fibroblasts: score"]["high"] == 199
    assert browser.run("document.querySelectorAll('figure.plate img').length") == 1
    assert browser.faults() == []
