"""The HTML page: what stands in it, that it stands alone, and how it looks in a real browser."""

import html
import json
import math
import os
import re
import shutil
import subprocess

import pytest
from helpers.pages import LINE, SHADE, Reader, drawn, level
from helpers.results import N, fill, rows_of

from scripts import report
from scripts.drawing.charts import TEXT, Curve, chart
from scripts.experiments.cells import cells
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.experiment import write_experiment
from scripts.results.folder import find_runs, tables_of
from scripts.results.tables import markdown
from utils.errors import RunError
from utils.runs.files import read_json
from utils.runs.plots import COLOURS

EPOCHS = 8
SEEDS = (0, 1)
EVIL = "<script>alert('x')<&quot;"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf500f0003860180"
    "5a349d530000000049454e44ae426082"
)


def trace(name, seed, epoch):
    return (100 if name == "audio" else 10) / (1 + epoch) + seed


def write_metrics(folder, seed, names=("audio", "visual"), epochs=EPOCHS):
    rows = []
    for epoch in range(epochs):
        accuracies = {name: (epoch + seed + k) / 20 for k, name in enumerate(("accuracy", *names))}
        rows.append(
            {
                "epoch": epoch,
                "test": accuracies,
                "fisher_trace": {name: trace(name, seed, epoch) for name in names},
                # audio: the first three epochs, in both seeds; then the sixth, in one
                "prime_window": {name: name == "audio" and (epoch < 3 or (epoch == 5 and seed == 1)) for name in names},
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Table 2 on demo with two seeds, its files in tables/, a run whose tag is markup, an unfinished one, pictures."""
    out = tmp_path_factory.mktemp("results") / "my <results>"
    found = cells(EXPERIMENTS["table2"], "demo", SEEDS, out)
    for cell in found:
        if cell.row.program == "main.py" and cell.row.label != "AGM":
            fill(cell, 10 + cell.seed + len(cell.row.label), rules=("last", "val", "oracle"))
            write_metrics(cell.folder, cell.seed, [name] if (name := only(cell)) else ("audio", "visual"))
    joint = next(cell for cell in found if (cell.row.label, cell.seed) == ("Joint training", 0)).folder
    shutil.copytree(joint, joint.parents[1] / EVIL / "seed0")
    (joint / "figures").mkdir()
    (joint / "figures" / "tsne_visual.png").write_bytes(PNG)
    (joint / "figures" / "accuracy.png").write_bytes(b"not for the page")
    unfinished = shutil.copytree(joint, joint.parents[1] / "broken" / "seed0")
    (unfinished / "done").unlink()
    for rule in ("oracle", "last"):
        write_experiment(EXPERIMENTS["table2"], "demo", SEEDS, out, rule=rule)
    return out


def only(cell):
    return next((name for name in ("audio", "visual") if f"--modality {name}" in cell.row.flags), None)


@pytest.fixture(scope="module")
def page(results):
    return report.main([str(results)]).read_text()


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def grids(read):
    """The rows of every table, as lists of texts."""
    found = []
    for tag, _, text in read.elements:
        if tag == "table":
            found.append([])
        elif tag == "tr":
            found[-1].append([])
        elif tag in ("th", "td"):
            found[-1][-1].append(text)
    return found


def test_the_page_stands_alone(read, page):
    assert page.startswith("<!DOCTYPE html>") and "<script" not in page
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _, _ in read.elements}
    for tag, attributes, _ in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in {"src", "href", "xlink:href", "action", "data", "poster"} & attributes.keys():
            value = attributes[name]
            assert value.startswith("data:image/") if tag == "img" else value.startswith("#"), value
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for a, _ in read.all("meta") if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_names_are_text_wherever_they_stand(read, page, results):
    assert EVIL not in page and "my <results>" not in page
    assert any(text == f"Joint training, {EVIL}" for _, text in read.all("h3"))
    assert any(row[0] == f"Joint training, {EVIL}" for grid in grids(read) for row in grid)
    assert read.all("title")[0][1] == read.all("h1")[0][1] == "Test accuracy of 8 settings on demo"
    assert "finished runs in my <results>" in read.all("p")[0][1]
    svg = chart([Curve(EVIL, "red", [1.0], [1.0], [1.0])], EVIL, f'"{EVIL}"')
    assert Reader(svg).all("svg")[0][0]["aria-label"] == f'"{EVIL}"' and "<script" not in svg


def test_a_reader_who_does_not_see_finds_the_way(read):
    assert read.all("html")[0][0]["lang"] == "en"
    assert any(a.get("name") == "viewport" and "width=device-width" in a["content"] for a, _ in read.all("meta"))
    identities = [a["id"] for _, a, _ in read.elements if "id" in a]
    assert len(identities) == len(set(identities))
    links = [a["href"][1:] for a, _ in read.all("a")]
    assert links and set(links) <= set(identities)
    labelled = [a["for"] for a, _ in read.all("label")]
    assert sorted(labelled) == sorted(a["id"] for a, _ in read.all("input"))
    pictures = read.all("svg")
    assert len(pictures) == 2 + 2 * 8 and all(a["role"] == "img" and len(a["aria-label"]) > 20 for a, _ in pictures)
    assert [a["alt"] for a, _ in read.all("img")] == ["t-SNE: tsne_visual, seed0"]
    for attributes, _ in read.all("th"):
        assert attributes["scope"] in ("col", "row")
    for attributes, _ in read.all("table"):
        assert ", rule " in attributes["aria-label"] or attributes["aria-label"].startswith("Rule ")


def test_the_tables_are_those_of_collect_by_every_rule(read, results, page):
    found = grids(read)
    rules = ["last", "val", "oracle", "last", "oracle"]
    assert [a["aria-label"] for a, _ in read.all("section")] == [f"rule {rule}" for rule in rules]
    for grid, rule in zip(found[3:], ("last", "oracle"), strict=True):
        wanted = rows_of((results / "tables" / f"table2_demo{'' if rule == 'last' else '_oracle'}.md").read_text())
        assert len(grid) == 1 + len(wanted)
        for row in grid[1:]:
            cells = dict(zip(grid[0], row, strict=True))
            plain = {name: re.sub(r"\*\*|</?u>", "", cell).replace("+-", "±") for name, cell in wanted[row[0]].items()}
            shared = {name for name in cells if name in plain and name != "seeds"}
            # The seeds' differences have no spread, so that no row has a p over them.
            assert {"accuracy", "audio", "visual", "95% interval", "p (samples)"} == shared
            wanted_cells = {name: plain[name].replace("not run", "no run") for name in shared}
            assert {name: cells[name] for name in shared} == wanted_cells
    bold = [text for a, text in read.all("td") if a.get("class") == "best"]
    assert bold and all("±" in text for text in bold)
    runs, _ = find_runs(results)
    for grid, rule in zip(found[:3], ("last", "val", "oracle"), strict=True):
        (table,) = tables_of(having(runs, rule), rule)
        wanted = list(rows_of(markdown(table)).values())
        assert len(grid) == 1 + len(wanted) and not any(name.startswith("window") for name in grid[0])
        for row, of_row in zip(grid[1:], wanted, strict=True):
            plain = {name: re.sub(r"\*\*|</?u>|\\(?=.)", "", cell).replace("+-", "±") for name, cell in of_row.items()}
            assert row[0] == plain[""] and row[1:] == [plain[name] for name in grid[0][1:]]
    assert f"{N} test samples" in page and "broken/seed0" in page and "1 not finished" in page


def having(runs, rule):
    """The runs that have a rule."""
    kept = {s: [f for f in folders if rule in read_json(f / "result.json")] for s, folders in runs.items()}
    return {setting: folders for setting, folders in kept.items() if folders}


def test_the_figures_of_a_setting_are_means_over_its_seeds(results):
    runs, _ = find_runs(results)
    accuracy, fisher, tsne = report.figures(runs["demo", "joint", "default"])
    assert accuracy["key"] == [("fused", "currentColor"), ("audio", COLOURS[0]), ("visual", COLOURS[1])]
    assert "fused 37.5, audio 42.5, visual 47.5." in accuracy["picture"]  # of 7 and 8, 8 and 9, 9 and 10 twentieths
    assert "(audio: 1-3, 6; visual: never)" in fisher["caption"]
    read = Reader(fisher["picture"])
    assert [re.search("opacity: (.*)", style)[1] for _, style in drawn(read, SHADE)] == [
        "0.35",
        "0.35",
        "0.35",
        "0.225",
    ]
    line = drawn(read, LINE)[0][0]
    means = [(trace("audio", 0, e) + trace("audio", 1, e)) / 2 for e in range(EPOCHS)]
    # From the decade of the least, 10 / 8, to that of the largest, 101.
    assert [y for _, y in line] == pytest.approx([level(math.log10(mean) / 3) for mean in means])
    assert "data:image/png;base64,iVBOR" in tsne["picture"] and tsne["caption"] == "t-SNE: tsne_visual, seed0."


def test_a_modality_has_one_colour_on_the_page(page):
    """Also where it is trained alone."""
    keys = re.findall(r'<i style="background:([^"]+)"></i> (\w+)</span>', page)
    assert set(keys) == {(TEXT, "fused"), (COLOURS[0], "audio"), (COLOURS[1], "visual")}


@pytest.mark.parametrize("shares, words", [([], "never"), ([1, 0, 1, 1, 0.5, 0], "1, 3-5"), ([0, 0], "never")])
def test_epochs_in_words(shares, words):
    assert report.epochs_of(shares) == words


def test_a_value_that_is_none_is_a_gap():
    seeds = [[{"x": 1.0}, {"x": None}], [{"x": 3.0}, {"x": 2.0}]]
    curve = report.curve("x", "red", seeds, lambda row: row["x"])
    ends = pytest.approx(2 - 2**0.5), pytest.approx(2 + 2**0.5)  # one standard deviation, as in the tables
    assert (curve.mean, curve.low, curve.high) == ([2.0, None], [ends[0], None], [ends[1], None])
    assert report.curve("x", "red", [[{"x": 1.0}], [{"x": 9.0}]], lambda row: row["x"], log=True).low == [
        pytest.approx(5 / 3**2**0.5)  # the logarithms, 0 and 2 log 3, deviate by sqrt(2) log 3
    ]
    assert report.averaged(seeds) == "mean ± standard deviation of 2 seeds" and report.averaged(seeds[:1]) == "1 seed"


def test_fifty_runs_make_a_page_of_less_than_three_megabytes(tmp_path):
    found = cells(EXPERIMENTS["table2"], "demo", range(7), tmp_path)
    found = [cell for cell in found if cell.row.program == "main.py"]
    for cell in found:
        fill(cell, 10)
        write_metrics(cell.folder, cell.seed, [name] if (name := only(cell)) else ("audio", "visual"), epochs=100)
    assert len(found) >= 50 and len(report.page(tmp_path).encode()) < 3e6


def test_runs_that_are_not_alike_are_told_on_the_page(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "copy")
    path = copy / "demo" / "ogm" / "default" / "seed1" / "args.json"
    path.write_text(path.read_text().replace("a" * 40, "b" * 40))
    (warning,) = [text for a, text in Reader(report.page(copy)).all("p") if a.get("class") == "warning"]
    assert warning.startswith("Warning: demo: code, commit: aaaaaaaaaa in") and "OGM (seed 1)" in warning


def test_a_folder_without_runs_and_a_page_that_goes_elsewhere(results, page, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to .*file"):
        report.main([str(results), "--out", str(tmp_path / "file" / "page.html")])
    with pytest.raises(RunError, match="no finished run below"):
        report.main([str(tmp_path)])
    out = report.main([str(results), "--out", str(tmp_path / "new" / "page.html")])
    assert out.read_text() == page


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Looks at the page in a frame of a phone's or a desk's width, and says what is seen of it.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const frame = document.createElement("iframe");
frame.style = "border: 0; width: %dpx; height: 800px";
frame.srcdoc = %s;
frame.onload = () => {
  const page = frame.contentDocument, shown = element => element.getClientRects().length > 0;
  const sections = () => [...page.querySelectorAll("section")].map(shown);
  const seen = {
    width: page.documentElement.scrollWidth, heading: page.querySelector("h1").textContent, before: sections(),
    boxes: [...page.querySelectorAll(".scroll")].filter(shown).map(box => [box.clientWidth, box.scrollWidth]),
    pictures: [...page.querySelectorAll("svg, img")].map(p => p.getBoundingClientRect()).map(r => [r.width, r.height]),
    hints: [...page.querySelectorAll(".scroll")].filter(shown).map(box => shown(box.nextElementSibling)),
    labels: [...page.querySelectorAll("label")].filter(shown).length,
  };
  page.querySelector("label[for='d1-oracle']").click();
  seen.after = sections();
  const mark = page.createElement("pre");
  mark.id = "seen"; mark.textContent = JSON.stringify(seen);
  document.body.replaceChildren(document.importNode(mark, true));
};
document.body.append(frame);
</script>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """browse(text, width): what is seen of a page that is so many pixels wide, in a real browser."""
    browser = next(filter(None, map(shutil.which, [os.environ.get("BROWSER", ""), *BROWSERS])), None)
    if browser is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium-headless-shell; or BROWSER=its path)")
    folder = tmp_path_factory.mktemp("browser")

    def run(text, width):
        probe = folder / "probe.html"
        probe.write_text(PROBE % (width, json.dumps(text).replace("</", "<\\/")))
        fixed = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=5000 --dump-dom".split()
        size, home = f"--window-size={max(width, 500)},900", f"--user-data-dir={folder}"
        command = [browser, *fixed, size, home, probe.as_uri()]
        printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', printed, re.S)[1]))

    return run


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_on_a_phone_and_on_a_desk(browse, page, width):
    seen = browse(page, width)
    assert seen["heading"] == "Test accuracy of 8 settings on demo"
    assert seen["width"] == width  # nothing but the tables' own boxes scrolls sideways
    assert all(inside <= width - 16 for inside, _ in seen["boxes"]) and len(seen["boxes"]) == 2
    assert any(whole > inside for inside, whole in seen["boxes"]) == (width == 390)
    # A table that goes on to the right says so, and no other.
    assert seen["hints"] == [whole > inside for inside, whole in seen["boxes"]]
    assert len(seen["pictures"]) == 19 and all(100 < w < width and h > 50 for w, h in seen["pictures"])
    # Of each table one rule is shown, the first; a click on another changes that one alone.
    assert seen["before"] == [True, False, False, True, False] and seen["after"] == [False, False, True, True, False]
    assert seen["labels"] == 5


def test_a_browser_prints_every_rule(browse, page):
    seen = browse(page.replace("@media print", "@media all"), 700)  # the width of A4, less its margins
    assert seen["before"] == seen["after"] == [True] * 5 and seen["labels"] == 0
    assert seen["width"] == 700 and all(whole <= inside for inside, whole in seen["boxes"])
