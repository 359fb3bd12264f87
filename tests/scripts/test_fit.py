"""`sotglp.fit`: the scripts' run from Python."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sotglp
import train
from dassl.utils import UserError
from scripts.fit import fit, reader_of
from scripts.methods import read_methods
from scripts.run import make_runs
from sotglp.toolbox import offered

QUICK = {"OPTIM.MAX_EPOCH": 1, "TRAINER.SOTGLP.N_LOCAL": 2}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of four pictures of each of two classes, beside the current folder."""
    generator = np.random.default_rng(0)
    for name, colour in {"red": (200, 60, 60), "dark_blue": (30, 30, 120)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(generator.normal(colour, 30, (70, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def test_the_library_offers_it():
    assert offered("fit") is fit


def test_it_is_the_run_of_the_scripts_and_leaves_random_states_alone(pictures, tmp_path, monkeypatch, recwarn):
    before, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    deterministic = torch.are_deterministic_algorithms_enabled()
    model = fit("pictures", 2, backbone="small", options=QUICK)
    assert torch.get_rng_state().equal(before) and np.array_equal(np.random.get_state()[1], drawn)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert model.classes_.tolist() == ["dark blue", "red"] and model.run == tmp_path.joinpath(
        "output/pictures/image_folder/SOTGLP/small_2shots/with-projection/seed1"
    ).relative_to(tmp_path)
    for name, value in {"DATA": "pictures", "OUTPUT": "again", "BACKBONE": "small"}.items():
        monkeypatch.setenv(name, value)
    options = [str(word) for pair in QUICK.items() for word in pair]
    (run,) = make_runs([read_methods()["SOT-GLP, with projection"]], ["image_folder"], ["2"], options, seeds=[1])
    assert train.main(run.arguments) == 0
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (model.run, run.folder))
    assert ours["metrics"] == theirs["metrics"] and ours["config_hash"] == theirs["config_hash"]
    picture = str(pictures / "red" / "0.png")
    assert np.array_equal(model.predict_proba(picture), sotglp.load(run.folder).predict_proba(picture))
    fit("pictures", 2, backbone="small", options=QUICK)  # loads the run
    assert any("finished before" in str(warning.message) for warning in recwarn)
    (pictures / "red" / "0.png").rename(pictures / "red" / "new.png")
    with pytest.raises(UserError, match="seed1 has learned from other images of pictures: set another output"):
        fit("pictures", 2, backbone="small", options=QUICK)


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"method": "SOTGPL"}, "unknown method SOTGPL: take one of: "),
        ({"backbone": "tiny"}, "unknown backbone tiny: take one of: "),
        ({"shots": 0}, "shots .* must be whole numbers from 1"),
        ({"options": {"OPTIM.MAX_EPOC": 1}}, "unknown config key OPTIM.MAX_EPOC"),
        ({"folder": "picture"}, "no folder .*picture: DATASET.ROOT should be the folder of your images"),
    ],
)
def test_a_mistake_is_a_value_error(pictures, settings, line):
    with pytest.raises(UserError, match=line):
        fit(**{"folder": "pictures", "backbone": "small", **settings})


def test_a_table_is_read_as_one(tmp_path):
    assert reader_of(tmp_path) == "image_folder"
    (tmp_path / "notes.csv").write_text("a,b\n")
    assert reader_of(tmp_path) == "image_folder"
    (tmp_path / "images.csv").write_text("Split;Path;Label\n")
    assert reader_of(tmp_path) == "csv"
