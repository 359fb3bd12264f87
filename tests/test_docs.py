"""The pages in docs/: their blocks run in a fresh copy of the checkout, and the files and names in them exist."""

import csv
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from processes import PATIENCE, complete

import sotglp

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAPERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# A fenced block, with the comment that leaves it out if there is one right before it.
BLOCK = re.compile(r"^(<!-- not run: \S.*? -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
# The tester's, unlike the reader's.
SETTINGS = ("DATA", "OUTPUT", "SEEDS", "BACKBONE", "VARIANT", "JOBS", "PYTHON", "SETS", "SHIFTED")

TWICE = ("own-data",)  # pages whose blocks run a second time in the same clone

of_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def script_of(text):
    """One bash script of a page's blocks; blocks of Python are fed to python."""
    parts = ["set -ex -o pipefail\n"]
    for left_out, language, code in BLOCK.findall(text):
        if language == "python" and not left_out:
            parts.append(f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK\n")
        elif language == "bash" and not left_out:
            parts.append(code)
    return "".join(parts)


def copy_checkout(folder):
    """Copy the files that git tracks or would add."""
    listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listing, text=True).split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def files_in(folder):
    """The paths of all files in a copy of the checkout, without those of data and output."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] not in ("data", "output")}


def left_behind(paths):
    """Those paths in the checkout that git would show as untracked."""
    ignored = ["git", "-C", ROOT, "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(ignored, input="\n".join(paths), capture_output=True, text=True)
    return sorted(paths - set(done.stdout.splitlines()))


@pytest.fixture(scope="module")
def pages_run(request, tmp_path_factory, python):
    """{page: future of its process} of the pages that are tested, as many at a time as there are cores.

    They run in copies of their own, without a network, and share the unpacked data and the encoded test images. Their
    python is a fork, but for the README's: that page is what a new user types.
    """
    shared = tmp_path_factory.mktemp("shared")
    (shared / "data").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= {"FEATURES": str(shared / "features"), "OMP_NUM_THREADS": "1"}
    paths = [python.parent, Path(sys.executable).parent, os.environ["PATH"]]
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # nothing answers there

    def run(page):
        folder = tmp_path_factory.mktemp(page.stem)
        script = folder / "page.sh"
        copy_checkout(folder)
        (folder / "data").symlink_to(shared / "data")
        script.write_text(script_of(page.read_text(encoding="utf-8")), encoding="utf-8")
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        before = files_in(folder)
        for _ in range(1 + (page.stem in TWICE)):
            path = ":".join(map(str, paths[1:] if page.stem == "README" else paths))
            done = complete(["bash", script], 10 * PATIENCE, cwd=folder, env={**environment, "PATH": path}, **streams)
            if done.returncode:
                break
        return done, left_behind(files_in(folder) - before)

    pages = {item.callspec.params["page"] for item in request.session.items if "pages_run" in item.fixturenames}
    by_length = sorted(pages, key=lambda page: -page.read_text(encoding="utf-8").count("\n```bash"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # Linux has the first
    with ThreadPoolExecutor(cores) as pool:
        yield {page: pool.submit(run, page) for page in by_length}


@pytest.mark.slow
@of_page
def test_the_blocks_of_a_page_run(page, pages_run):
    done, left = pages_run[page].result()
    assert done.returncode == 0, f"{page.name} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    assert "\033" not in done.stdout  # colours are for terminals
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[:1], ids=["README"])
def test_the_python_of_the_readme_prints_what_stands_below_it(page, pages_run):
    text = page.read_text(encoding="utf-8")
    (code, output), *_ = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL)
    assert "sotglp.fit(" in code and len([line for line in code.splitlines() if line]) == 10
    printed = pages_run[page].result()[0].stdout
    assert [line for line in output.splitlines() if line not in printed] == []


@of_page
def test_every_block_that_is_left_out_has_a_reason(page):
    text = page.read_text(encoding="utf-8")
    languages = [language for _, language, _ in BLOCK.findall(text)]
    assert set(languages) <= {"bash", "python", "text", "console", "yaml", "csv"}
    assert 2 * len(languages) == len(re.findall("^ *```", text, re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, *PAPERS], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_project_papers_name_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sotglp.__version__
    assert citation["preferred-citation"]["url"] in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n## {sotglp.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = form.get("body", [])
        assert path.stem == "config" or (form["name"] and form["description"] and fields)
        assert all(field["attributes"]["label"] and field["validations"].keys() == {"required"} for field in fields)


def test_published_figures_are_those_of_the_file():
    with open(ROOT / "scripts" / "published.csv", encoding="utf-8", newline="") as file:
        known = [(row["method"], float(row["value"]), row["source"].partition(" (")[0]) for row in csv.DictReader(file)]
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    sources = {source for _, _, source in known}
    shown = [(row[0], float(cell), row[-1]) for row in rows if row[-1] in sources for cell in row[1:-1] if cell]
    assert len(shown) > 90 and [figure for figure in shown if figure not in known] == []


def test_names_in_the_map_of_formulas_can_be_imported():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)
    named = [re.findall(r"`((?:trainers\.)?sotglp\.[\w.]+)`", row) for row in rows]
    assert len(rows) == 15 and all(named)
    for name in sum(named, []):
        assert callable(pkgutil.resolve_name(name)), name
