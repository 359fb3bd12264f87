"""The pages in docs/: their blocks run in a fresh copy of the checkout, and what they name is there."""

import contextlib
import csv
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
# A fenced block, with the comment that leaves it out if there is one right before it.
BLOCK = re.compile(r"^(<!-- not run: \S.*? -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
SETTINGS = ("DATA", "OUTPUT", "SEEDS", "BACKBONE", "VARIANT", "JOBS", "PYTHON")  # the tester's, unlike the reader's
COMMANDS = (
    *("scripts.run", "scripts.compare", "scripts.transfer", "scripts.ood_detection", "scripts.ood"),
    *("train", "predict", "visualize", "report", "export"),
    *("scripts.table", "dassl.doctor", "datasets.check", "datasets.prepare", "sotglp.conformance"),
    *("benchmarks.__main__", "benchmarks.step", "benchmarks.text_tower", "benchmarks.evaluation", "benchmarks.loading"),
)

of_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def script_of(text):
    """A page's blocks that run as one script of bash, those of Python as what python reads."""
    parts = ["set -ex -o pipefail\n"]
    for left_out, language, code in BLOCK.findall(text):
        if language == "python" and not left_out:
            parts.append(f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK\n")
        elif language == "bash" and not left_out:
            parts.append(code)
    return "".join(parts)


def copy_checkout(folder):
    """What git holds, or would take."""
    listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listing, text=True).split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def pages_run(request, tmp_path_factory):
    """{page: future of its process} of the pages that are tested, as many at a time as there are cores.

    They run in copies of their own, without a network, and share the unpacked data and the encoded test images.
    """
    shared = tmp_path_factory.mktemp("shared")
    (shared / "data").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= {"FEATURES": str(shared / "features"), "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # nothing answers there

    def run(page):
        folder = tmp_path_factory.mktemp(page.stem)
        script = folder / "page.sh"
        copy_checkout(folder)
        (folder / "data").symlink_to(shared / "data")
        script.write_text(script_of(page.read_text(encoding="utf-8")), encoding="utf-8")
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(["bash", script], cwd=folder, env=environment, text=True, timeout=600, **streams)

    pages = {item.callspec.params["page"] for item in request.session.items if "pages_run" in item.fixturenames}
    by_length = sorted(pages, key=lambda page: -page.read_text(encoding="utf-8").count("\n```bash"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {page: pool.submit(run, page) for page in by_length}


@of_page
def test_the_blocks_of_a_page_run(page, pages_run):
    done = pages_run[page].result()
    assert done.returncode == 0, f"{page.name} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    assert "\033" not in done.stdout  # colours are for terminals


@of_page
def test_no_block_is_left_out_by_a_slip(page):
    text = page.read_text(encoding="utf-8")
    languages = [language for _, language, _ in BLOCK.findall(text)]
    assert set(languages) <= {"bash", "python", "text", "console", "yaml", "csv"}
    assert 2 * len(languages) == len(re.findall("^ *```", text, re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_published_figures_are_those_of_the_file():
    with open(ROOT / "scripts" / "published.csv", encoding="utf-8", newline="") as file:
        known = [(row["method"], float(row["value"]), row["source"].partition(" (")[0]) for row in csv.DictReader(file)]
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    sources = {source for _, _, source in known}
    told = [(row[0], float(cell), row[-1]) for row in rows if row[-1] in sources for cell in row[1:-1] if cell]
    assert len(told) > 90 and [figure for figure in told if figure not in known] == []


def test_what_the_map_of_formulas_names_can_be_imported():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)
    named = [re.findall(r"`(sotglp\.[\w.]+)`", row) for row in rows]
    assert len(rows) == 15 and all(named)
    for name in sum(named, []):
        assert callable(pkgutil.resolve_name(name)), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_the_exit_codes_and_how_a_command_is_started(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with contextlib.suppress(SystemExit):
        assert importlib.import_module(name).main() == 0
    told = capsys.readouterr().out
    assert "Exit code: 0 " in told and name.removesuffix(".__main__") in told
    assert "\033" not in told and max(map(len, told.splitlines())) <= 120
