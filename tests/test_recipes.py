"""The recipes in configs/ and in the trainers' defaults are the published ones, value by value."""

import re
from pathlib import Path

import pytest

import trainers  # noqa: F401 (registers them)
from dassl.engine import TRAINER_REGISTRY
from scripts import recipes
from scripts.methods import read_methods
from trainers.plotpp import WORDS
from trainers.tcp import LEARNED

ROOT = Path(__file__).parents[1]
RECORDS = recipes.Records()
NAMES = sorted({name for name, _ in RECORDS.rows})


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_published_ones(name):
    recipe = recipes.Recipe(TRAINER_REGISTRY.get(name))
    checked = set()
    for of, key in RECORDS.rows:
        for dataset in recipes.DATASETS if of == name else ():
            for shots in recipes.SHOTS:
                record = RECORDS.find(name, key, dataset, shots)
                if record:
                    value = recipe.value(key, dataset, shots)
                    assert recipes.same(value, record["value"]), (key, dataset, shots, value, record)
                    checked.add(key)
    assert checked == {key for of, key in RECORDS.rows if of == name}


def test_the_recipe_of_sotglp_is_the_paper_s():
    """Typed from the paper's table: epochs, batch, learning rate and N of each data set, at 16 shots."""
    table = """
        imagenet 50 256 0.01 4, caltech101 200 32 0.005 6, oxford_pets 200 32 0.005 6, stanford_cars 200 32 0.005 4,
        oxford_flowers 200 32 0.005 6, food101 200 128 0.005 6, fgvc_aircraft 200 128 0.01 2, sun397 200 128 0.005 4,
        dtd 200 128 0.002 4, eurosat 200 10 0.001 4, ucf101 200 128 0.005 4
    """
    recipe = recipes.Recipe(TRAINER_REGISTRY.get("SOTGLP"))
    for row in table.split(","):
        dataset, *numbers = row.split()
        values = recipe.settings[dataset, 16]
        keys = "OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE", "OPTIM.LR", "TRAINER.SOTGLP.N_LOCAL"
        assert [values[key] for key in keys] == [float(number) for number in numbers], dataset
        of_all = {"N_GLOBAL": 3, "TOPK": 10, "EPS": 0.1, "PROMPT_DROPOUT": 0.75, "PROJECTION": True, "PREC": "amp"}
        assert {key: values[f"TRAINER.SOTGLP.{key}"] for key in of_all} == of_all
        optim = {"NAME": "sgd", "MOMENTUM": 0.9, "WEIGHT_DECAY": 0.01, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": -1}
        assert {key: values[f"OPTIM.{key}"] for key in optim} == optim


def test_every_method_with_a_published_recipe_has_records_and_a_reference_file():
    from scripts.conformance.ways import METHODS

    checked = {method.trainer for method in METHODS.values()} | {"TipAdapterF"}
    named = {method.trainer for method in read_methods().values() if method.variant == "published-recipe"}
    assert named <= checked and named <= set(NAMES)


def test_the_page_has_the_tables():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    tables = re.search(r"<!-- recipes -->\n(.*)<!-- end of recipes -->", page, re.DOTALL)[1]
    assert tables.strip() == recipes.tables()


def test_words_around_learned_contexts():
    """Words of PLOT++'s four prompts on every data set; TCP's texts where they do not end like the template."""
    names = {recipes.read_yaml(f"configs/datasets/{dataset}.yaml")["DATASET"]["NAME"] for dataset in recipes.DATASETS}
    assert names == set(WORDS) and all(len(words) == 4 for words in WORDS.values())
    assert WORDS["EuroSAT"][2] == "this is centered satellite photo of" and WORDS["ImageNet"][2] == "this is a"
    assert LEARNED["StanfordCars"] == "{}, a type of car" and LEARNED["UCF101"] == "person doing {}."


def test_a_changed_default_is_noticed(monkeypatch):
    trainer = TRAINER_REGISTRY.get("SOTGLP")
    monkeypatch.setitem(trainer.DEFAULTS, "EPS", 0.2)
    with pytest.raises(AssertionError):
        test_values_are_the_published_ones("SOTGLP")
    with pytest.raises(AssertionError):
        test_the_recipe_of_sotglp_is_the_paper_s()
