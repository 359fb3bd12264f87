"""The page of report.py is one file with the numbers of the runs' results, and its tables sort in a browser."""

import csv
import html.parser
import json
import shutil

import pytest
from PIL import Image
from processes import PATIENCE
from written_runs import write_runs

from dassl.evaluation.evaluator import PREDICTIONS
from scripts import report
from scripts.ood_evaluation import histogram

VOID = {"meta", "link", "img"}
CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Page(html.parser.HTMLParser):
    """Every tag closed in its order, all addresses, and the text of table cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.cells, self.alts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.alts.append(attributes["alt"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells.append(data)


@pytest.fixture
def runs(tmp_path):
    """Two methods with one and two seeds; the second has predictions of three images, an ood.json and a setting."""
    first = write_runs(tmp_path / "a/CoOp/small_16shots/shared-context", [9.5], macro_f1=1.25)
    second = write_runs(tmp_path / "a/CoOp/small_16shots/class-specific-contexts", [50.0, 60.0], macro_f1=100 / 3)
    for seed in (1, 2):
        rows = []
        for name, predicted, p, q in (("cat", "cat", 0.9, 0.9), ("dog", "cat", 0.25, 0.75), ("<i>", "dog", 0.1, 0.8)):
            path = tmp_path / f"{len(rows)}.png"
            Image.new("RGB", (8, 8), (200, 30 * len(rows), 0)).save(path)
            rows.append([path, name, predicted, p, q])
        with (second / f"seed{seed}/predictions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([PREDICTIONS, *rows])
        scores = {"AUROC": 75.0, "FPR95": 50.0}
        ood = {"average": {"MCM": scores}, "seed": seed, "histograms": {"MCM": histogram([0, 1, 2], [1, 3])}}
        (second / f"seed{seed}/ood.json").write_text(json.dumps(ood))
        (second / f"seed{seed}/config.yaml").write_text(f"SEED: {seed}\nOPTIM: {{LR: 0.5}}")
    (first / "seed1/config.yaml").write_text("SEED: 1\nOPTIM: {LR: 0.25}")
    return tmp_path


def test_one_file_with_the_numbers_of_the_results(runs, capsys):
    assert report.main([str(runs)]) == 0 and "The page is" in capsys.readouterr().out
    page = Page((runs / "report.html").read_text())
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert {"9.50", "50.00", "60.00", "33.33", "1.25"} <= set(page.cells)
    assert {"55.0 ± 7.1", "9.5"} <= {cell.split(" (")[0] for cell in page.cells}
    assert {"OPTIM.LR", "0.25", "0.5"} <= set(page.cells) and "SEED" not in page.cells
    assert sum(alt.startswith("confusion matrix") for alt in page.alts) == 1
    assert [alt for alt in page.alts if "taken for" in alt] == [
        "<i>, taken for dog",
        "dog, taken for cat",
    ]  # surest first
    assert any(alt.startswith("OOD scores") for alt in page.alts)


def test_a_page_of_runs_without_predictions_reports_it(tmp_path, capsys):
    write_runs(tmp_path / "a/CoOp/small_16shots/shared-context", [9.5])
    assert report.main([str(tmp_path), "--quiet"]) == 0 and capsys.readouterr().out == ""
    text = (tmp_path / "report.html").read_text()
    assert text.count("No run has predictions.csv") == 2 and "No run has ood.json" in text
    assert "No run has kept scalars" in text


def test_mistakes_are_one_line(tmp_path, capsys):
    for arguments, message in (([str(tmp_path)], "no finished run"), ([], "required: folder")):
        assert report.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_click_sorts_and_nothing_overflows(runs):
    from playwright.sync_api import sync_playwright

    assert report.main([str(runs), "--quiet"]) == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(1000 * PATIENCE)
        messages = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto((runs / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        table = page.locator("table", has_text="All runs")
        for order, expected in (("ascending", ["9.50", "50.00", "60.00"]), ("descending", ["60.00", "50.00", "9.50"])):
            table.get_by_role("button", name="accuracy").click()
            assert table.locator("tbody tr td:nth-child(5)").all_inner_texts() == expected  # as numbers, not as text
            assert table.locator(f"th[aria-sort={order}]").count() == 1
        browser.close()
    assert messages == []
