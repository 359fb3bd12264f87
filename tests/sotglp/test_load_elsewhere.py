"""A trained run is used from any folder, where packages of other people carry the names of this repository's."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREDICT = """
import sys
{before}
import sotglp
predictor = sotglp.load(sys.argv[1])
prediction = predictor.predict(sys.argv[2])
print(prediction.names[0], prediction.combined.shape[1])
{after}
"""


@pytest.fixture
def foreign(tmp_path):
    """A folder of other people's packages: Hugging Face's datasets, OpenAI's clip, upstream's dassl, and trainers."""
    folder = tmp_path / "foreign"
    for name in ("datasets", "clip", "dassl", "trainers"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"WHOSE = 'a stand-in of {name}'\n")
    (folder / "dassl" / "utils").mkdir()
    (folder / "dassl" / "utils" / "__init__.py").write_text("def setup_logger(output=None): ...\n")
    return folder


@pytest.fixture
def predict(trained_runs, foreign, tmp_path, python):
    """Function (lines before and after) -> the process that predicts an image from another folder."""
    run, _, paths = trained_runs["SOTGLP"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def start(before="", after=""):
        code = PREDICT.format(before=before, after=after)
        # The packages of others come first; this checkout is found last, as an editable install is.
        environment = {**os.environ, "PYTHONPATH": f"{foreign}:{ROOT}"}
        command = [python, "-c", code, str(run), str(paths[0])]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    return start


def test_a_run_predicts_beside_packages_of_the_same_names(predict, trained_runs):
    done = predict(after="import datasets, clip\nprint(datasets.WHOSE, '|', clip.WHOSE)")
    assert done.returncode == 0, done.stderr
    first, others = done.stdout.splitlines()
    assert first.endswith(" 10") and others == "a stand-in of datasets | a stand-in of clip"
    assert "unavailable" not in done.stderr


def test_a_dassl_that_is_in_use_is_named_in_one_line(predict):
    done = predict(before="import dassl")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: sotglp.load needs ") and "foreign/dassl" in last


def test_trainers_of_another_checkout_that_are_in_use_are_named_in_one_line(predict):
    done = predict(before="import trainers")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "is a run of SOTGLP" in last and "foreign/trainers" in last
