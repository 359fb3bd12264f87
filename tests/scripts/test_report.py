"""The page of report.py is one file with the numbers of the runs' results, and can be used in a browser."""

import csv
import html.parser
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from processes import PATIENCE
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import DescrStatsW
from torch.utils.tensorboard import SummaryWriter
from written_runs import write_runs

from dassl.evaluation.evaluator import CALIBRATED, PREDICTIONS
from scripts import report, report_calibration, report_pairs, report_sections
from scripts.groups import lead
from scripts.ood_evaluation import histogram

VOID = {"meta", "link", "img"}
CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# class, and what CoOp with a shared context and with contexts of each class predict, their probabilities before and
# after the temperature. Only the second method is ever alone right, on one image of seed 1 and on two of seed 2.
IMAGES = (("cat", "cat", 0.9, 0.6), ("dog", "cat", 0.75, 0.5), ("<i>", "dog", 0.8, 0.4))
ALONE = {1: ["dog"], 2: ["dog", "<i>"]}


class Page(html.parser.HTMLParser):
    """Every tag closed in its order, all addresses, and the text of table cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.cells, self.alts, self.best = [], [], [], [], []
        self.headings, self.words = [], []
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
        if "p" in self.open:
            self.words.append(data)
        if "strong" in self.open:
            self.best.append(data)
        if "h2" in self.open:
            self.headings.append(data)


def write_predictions(folder, seed, images, right=()):
    """predictions.csv of a run, with the classes that it gets right beside IMAGES."""
    rows = [
        [images / f"{name.strip('<>')}.png", name, name if name in right else predicted, 0.1, p, q]
        for name, predicted, p, q in IMAGES
    ]
    with (folder / f"seed{seed}/predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*PREDICTIONS, CALIBRATED], *rows])


def add(path, **more):
    """Add keys to a results.json."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.fixture
def runs(tmp_path):
    """Two methods with two seeds and all files that a report reads."""
    for i, (name, *_) in enumerate(IMAGES):
        Image.new("RGB", (8, 8), (200, 30 * i, 0)).save(tmp_path / f"{name.strip('<>')}.png")
    per_class = {"cat": 100.0, "dog": 0.0, "<i>": 0.0}
    more = {"per_class_accuracy": per_class, "temperature": 2.0}
    first = write_runs(tmp_path / "a/CoOp/small_16shots/shared-context", [9.5, 12.5], macro_f1=1.25, **more)
    second = write_runs(tmp_path / "a/CoOp/small_16shots/class-specific-contexts", [50.0, 60.0], macro_f1=33.0, **more)
    for seed in (1, 2):
        write_predictions(first, seed, tmp_path)
        write_predictions(second, seed, tmp_path, ALONE[seed])
        scores = {"AUROC": 75.0, "FPR95": 50.0}
        ood = {"average": {"MCM": scores}, "seed": seed, "histograms": {"MCM": histogram([0, 1, 2], [1, 3])}}
        (second / f"seed{seed}/ood.json").write_text(json.dumps(ood))
        of_others = "TRAINER: {NAME: CoOp, COOP: {N_CTX: 4}, PLOT: {EPS: %s}}"
        (first / f"seed{seed}/config.yaml").write_text(f"SEED: {seed}\nOPTIM: {{LR: 0.25}}\n{of_others % 1}")
        (second / f"seed{seed}/config.yaml").write_text(f"SEED: {seed}\nOPTIM: {{LR: 0.5}}\n{of_others % 2}")
        facts = {"command": f"python train.py --seed {seed} '<x>'", "machine": "Z80, 1 cores", "device": "cpu"}
        facts |= {"images": {"train": 48, "val": 12, "test": 3}, "classnames": ["cat", "dog", "<i>"], "threads": 1}
        for folder in (first, second):
            add(folder / f"seed{seed}/results.json", **facts, git={"commit": "abc" * 10, "dirty": False})
    return tmp_path


def test_one_file_with_the_numbers_of_the_results(runs, capsys):
    assert report.main([str(runs)]) == 0 and "The page is" in capsys.readouterr().out
    text = (runs / "report.html").read_text()
    page = Page(text)
    assert page.addresses and all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {"9.50", "50.00", "60.00", "33.00", "1.25"} <= set(page.cells)
    assert {"55.0 ± 7.1", "11.0 ± 2.1"} <= set(page.cells)
    assert {"55.0 ± 7.1", "60.00", "33.00"} <= set(page.best) and "11.0 ± 2.1" not in page.best
    assert {"OPTIM.LR", "0.25", "0.5"} <= set(page.cells)
    assert not {"SEED", "TRAINER.PLOT.EPS", "TRAINER.COOP.N_CTX"} & set(page.cells), "of a run, not read, the same"
    assert sum(alt.startswith("confusion matrix") for alt in page.alts) == 2
    assert [alt for alt in page.alts if "taken for" in alt][0] == "<i>, taken for dog"  # surest first
    assert any(alt.startswith("OOD scores") for alt in page.alts)
    # 9.5 and 12.5 beside 50 and 60: differences 40.5 and 47.5, mean 44, standard error 3.5, 12.706 of Student's at 1
    assert "leads CoOp, shared context by 44.0 points (95 % interval -0.5 to 88.5, paired over 2 seeds)." in text
    for fact in ("abcabcabcabc", "2030-01-01", "Z80, 1 cores, 1 thread", "python -m scripts.report", "small", "1, 2"):
        assert fact in text
    assert "FashionMNIST, 16 shots: 3 classes, 48 training, 12 validation and 3 test images" in text
    assert "python train.py --seed 2 &#x27;&lt;x&gt;&#x27;" in text
    for heading in page.headings:  # all in the contents, none empty
        key = heading.split()[0].lower()
        assert f'href="#{key}-0"' in text and f'id="{key}-0"' in text
    assert "Left out: Training curves (needs tensorboard/ of a run that trained)." in text


def test_what_has_no_data_is_left_out_and_named(tmp_path, capsys):
    write_runs(tmp_path / "a/CoOp/small_16shots/shared-context", [9.5])
    assert report.main([str(tmp_path), "--quiet"]) == 0 and capsys.readouterr().out == ""
    text = (tmp_path / "report.html").read_text()
    assert Page(text).headings == ["Results", "Plots"]
    assert "Calibration (needs predictions.csv)" in text and "OOD detection (needs ood.json, which" in text
    assert "CoOp, shared context: 9.5 % accuracy." in text and "±" not in text
    write_runs(tmp_path / "a/CoOp/small_16shots/class-specific-contexts", [9.0])
    assert report.main([str(tmp_path), "--quiet"]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "CoOp, shared context leads CoOp, class-specific contexts by 0.5 points (9.5 and 9.0 %)" in text


@pytest.mark.parametrize(
    "table, p", [([[7, 1], [5, 2]], 14 / 64), ([[3, 4], [4, 0]], 1.0), ([[2, 0], [12, 1]], 2**-11)]
)
def test_mcnemars_test_is_statsmodels(table, p):
    """By hand: 6 images of which the one method has 1 or none, on both sides: 2 * (1 + 6) / 2**6, and so on."""
    (_, first), (second, _) = table
    assert report_pairs.mcnemar(first, second) == pytest.approx(p) == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert report_pairs.mcnemar(0, 0) == 1


def test_paired_counts_and_images(runs):
    groups = report.find_groups(runs)[0]
    predictions = report_sections.predictions_of(groups)
    tested = report_pairs.ranked(predictions)
    best, other = tested  # the best comes first
    assert best == "CoOp, class-specific contexts"
    assert [line[2:7] for line in report_pairs.lines_of(best, other, tested)] == [[1, 1, 1, 0, 1], [2, 1, 2, 0, 0]]
    assert [line[7][0] for line in report_pairs.lines_of(best, other, tested)] == [1.0, 0.5]
    page = Page(report_pairs.pairs(groups, predictions))
    assert page.alts == [
        "dog, only CoOp, class-specific contexts right",
        "<i>, only CoOp, class-specific contexts right",
    ]


def test_a_method_without_training_is_paired_with_all_seeds(runs):
    folder = write_runs(runs / "a/ZeroshotCLIP/small_16shots/one-template", [30.0], trainer="ZeroshotCLIP")
    write_predictions(folder, 1, runs)
    tested = report_pairs.ranked(report_sections.predictions_of(report.find_groups(runs)[0]))
    lines = report_pairs.lines_of("CoOp, class-specific contexts", "zero-shot CLIP", tested)
    assert [line[2:7] for line in lines] == [[1, 1, 1, 0, 1], [2, 1, 2, 0, 0]]


def test_the_best_run_is_that_of_its_shots(runs):
    write_runs(runs / "a/CoOp/small_1shots/shared-context", [20.0, 19.0], shots=1, macro_f1=18.0)
    (groups,) = report.find_groups(runs)
    page = Page(report_sections.all_runs(groups))
    assert sorted(page.best) == ["18.00", "18.00", "20.00", "33.00", "33.00", "60.00"]
    assert page.cells.count("FashionMNIST") == 6  # a column only where there are several


def test_calibration_by_hand(runs):
    """Of the shared context |0.9 - 1| + 0.75 + 0.8 over 3 before, and 0.4 + 0.5 + 0.4 after."""
    groups = report.find_groups(runs)[0]
    page = Page(report_calibration.calibration(groups, report_sections.predictions_of(groups)))
    before, temperature, after = page.cells[page.cells.index("55.0 ± 0.0") :][:3]
    assert (before, temperature, after) == ("55.0 ± 0.0", "2.00 ± 0.00", "43.3 ± 0.0")
    assert "on its 12 validation images (least" in "".join(page.words)
    assert page.alts == [f"reliability diagram of {group.method.name}" for group in groups]
    # Of the other method 0.75 and 0.8, in one interval, have an accuracy of 1/2 in seed 1, and of 1 in seed 2.
    other = [100 * (0.1 + 2 * 0.275) / 3, 100 * (0.1 + 2 * 0.225) / 3]
    assert f"{np.mean(other):.1f} ± {np.std(other, ddof=1):.1f}" in page.best


def test_the_interval_is_statsmodels(runs):
    groups = report.find_groups(runs)[0]
    low, high = DescrStatsW([40.5, 47.5]).tconfint_mean()
    assert f"(95 % interval {low:.1f} to {high:.1f}," in lead(groups)


def test_confusion_matrices_have_numbers_where_classes_are_few(runs, monkeypatch):
    groups, drawn = report.find_groups(runs)[0], []
    monkeypatch.setattr(report_sections, "picture", lambda figure, *words: drawn.append(figure) or "")
    predictions = report_sections.predictions_of(groups)
    report_sections.confusions(groups, predictions)
    rows = [row for one in predictions if one.group is groups[1] for row in one.rows]
    truth, predicted = ([row[column] for row in rows] for column in ("class", "predicted"))
    expected = 100 * confusion_matrix(truth, predicted, labels=["cat", "dog", "<i>"], normalize="true")
    assert expected.tolist() == [[100, 0, 0], [0, 100, 0], [0, 50, 50]]  # by hand, over both seeds
    numbers = [text.get_text() for text in drawn[1].axes[0].texts]
    assert numbers == [f"{value:.0f}" for value in expected.flat]
    monkeypatch.setattr(report_sections, "MAX_NUMBERS", 2)
    report_sections.confusions(groups, predictions)
    assert not drawn[3].axes[0].texts


def test_losses_of_other_sums_stand_apart(runs, monkeypatch):
    """Over 50 epochs; a constant stays one when it is smoothed, and noise gets less."""
    groups, drawn = report.find_groups(runs)[0], []
    noise = np.random.default_rng(0).normal(3, 1, 100)
    for group, terms in zip(groups, ((), ("global", "local")), strict=True):
        for run in group.finished_runs():
            writer = SummaryWriter(run.folder / "tensorboard")
            for step in range(100):
                for tag in ("loss", *(f"loss_{term}" for term in terms)):
                    writer.add_scalar(f"train/{tag}", noise[step] if terms else 2.0, step)
            for epoch in range(50 if terms else 0):
                writer.add_scalar("val/accuracy", 40.0, epoch)
            writer.close()
    monkeypatch.setattr(report_sections, "picture", lambda figure, *words: drawn.append(figure) or "")
    report_sections.curves(groups)
    axes = {figure.axes[0].get_title(): figure.axes[0] for figure in drawn}
    assert set(axes) == {"loss", "loss: global + local", "accuracy on validation images in %"}
    for title, mean in (("loss", 2), ("accuracy on validation images in %", 40)):
        assert all(np.allclose(line.get_ydata(), mean) and line.get_xdata()[-1] == 50 for line in axes[title].lines)
    raw, smooth = (line.get_ydata() for line in axes["loss: global + local"].lines)
    np.testing.assert_allclose(raw, noise, rtol=1e-6)
    assert smooth.std() < raw.std() / 2 and smooth.mean() == pytest.approx(raw.mean(), abs=0.2)


def test_keys_that_a_method_does_not_read():
    trained = {"trainer": "CoOp", "epochs": 50, "learned_parameters": 9}
    untrained = [{"trainer": "ZeroshotCLIP", "epochs": None}, {"trainer": "GDA", "epochs": 1, "learned_parameters": 0}]
    for key in ("OPTIM.LR", "TRAINER.COOP.CSC", "TRAINER.MEMORY_BUDGET", "INPUT.SIZE"):
        assert report_sections.reads(trained, key)
    for run in untrained:
        assert not report_sections.reads(run, "OPTIM.LR") and report_sections.reads(run, "INPUT.SIZE")
    assert not report_sections.reads(trained, "TRAINER.GALLOP.TOPK")
    foreign = {"trainer": "Theirs", "epochs": 1}
    assert report_sections.reads(foreign, "TRAINER.THEIRS.A") and not report_sections.reads(foreign, "TRAINER.COOP.CSC")


def test_mistakes_are_one_line(tmp_path, capsys):
    for arguments, message in (([str(tmp_path)], "no finished run"), ([], "required: folder")):
        assert report.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


@pytest.fixture
def open_page(runs):
    """Function (width, scheme) -> the report of the runs in a browser, and the console's messages."""
    from playwright.sync_api import sync_playwright

    names = [f"method number {i}" for i in range(4)]  # of no list: tables are wide, and settings folded
    for i, name in enumerate(names):
        folder = write_runs(
            runs / "a/CoOp/small_16shots" / name, [20.0 + i], per_class_accuracy={"cat": 1.0, "dog": 2.0}
        )
        (folder / "seed1/config.yaml").write_text(f"OPTIM: {{LR: {i}}}")
    assert report.main([str(runs), "--quiet"]) == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE)

        def open_it(width, scheme):
            page, messages = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme), []
            page.set_default_timeout(1000 * PATIENCE)
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.goto((runs / "report.html").as_uri())
            return page, messages

        yield open_it
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_the_page_in_a_browser(open_page):
    cut = """[...document.querySelectorAll('.scroll')].filter(box => box.offsetParent).map(box =>
        [box.scrollWidth > box.clientWidth + 1, !box.previousElementSibling.hidden])"""
    beyond = """[...document.querySelectorAll('body *')].filter(part => !part.closest('.scroll') &&
        part.getBoundingClientRect().right > innerWidth + 1).length"""
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            page, messages = open_page(width, scheme)
            page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
            page.wait_for_timeout(100)  # until observers have run
            hints = page.evaluate(cut)
            assert hints and all(scrolls == hinted for scrolls, hinted in hints), "a hint where a table scrolls"
            assert width > 390 or any(scrolls for scrolls, _ in hints)
            assert page.evaluate("document.documentElement.scrollWidth") <= width and not page.evaluate(beyond)
            captions = "[...document.querySelectorAll('caption span')].map(part => part.getBoundingClientRect().right)"
            assert max(page.evaluate(captions)) <= width
            colours = page.evaluate("[document.body, document.querySelector('td')].map(p => getComputedStyle(p).color)")
            assert len(set(colours)) == 1 and (colours[0] == "rgb(228, 233, 239)") == (scheme == "dark")
            assert messages == []

    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    table = page.locator("table", has_text="All runs")
    for order, first, last in (("ascending", "9.50", "60.00"), ("descending", "60.00", "9.50")):
        table.get_by_role("button", name="accuracy").click()
        values = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
        assert (values[0], values[-1]) == (first, last)  # as numbers, not as text
        assert table.locator(f"th[aria-sort={order}]").count() == 1

    # The keyboard reaches every control, and uses it.
    controls = "[...document.querySelectorAll('a, button, summary, .scroll')].filter(part => part.checkVisibility())"
    number, reached = page.evaluate(f"{controls}.length"), set()
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    for _ in range(number + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"{controls}.indexOf(document.activeElement)"))
    assert set(range(number)) <= reached
    fold = page.locator("details", has_text="keys").first
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.get_attribute("open") is not None
    button = table.get_by_role("button", name="macro F1")
    button.focus()
    page.keyboard.press("Enter")
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("macro F1")
    assert messages == []
