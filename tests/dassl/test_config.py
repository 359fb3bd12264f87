"""Configurations: defaults, files, pairs, and what a run saves."""

import re
from pathlib import Path

import pytest
from yacs.config import CfgNode

from dassl.config import clean_cfg, compose, config_hash, flatten, get_cfg_default, merge_file, merge_pairs
from dassl.utils import UserError


def test_defaults_are_a_fresh_yacs_tree():
    cfg = get_cfg_default()
    assert isinstance(cfg, CfgNode)
    cfg.OPTIM.LR = 1.0
    cfg.TRAINER.COOP = CfgNode()
    cfg.TRAINER.COOP.N_CTX = 16
    assert get_cfg_default().OPTIM.LR == 0.0003 and "COOP" not in get_cfg_default().TRAINER


def test_only_the_keys_of_other_repositories_are_unread():
    root = Path(__file__).parents[2]
    files = [path for top in ("dassl", "sotglp", "trainers", "datasets") for path in (root / top).rglob("*.py")]
    words = {word for path in files if path.parent.name != "config" for word in re.findall(r"\w+", path.read_text())}
    unread = {key for key in flatten(get_cfg_default()) if key.split(".")[-1] not in words}
    assert {key.split(".")[-1] for key in unread} == {"VERSION", "N_DOMAIN", "INIT_WEIGHTS", "PRETRAINED"}


def test_clean_cfg_keeps_one_trainer():
    cfg = get_cfg_default()
    cfg.TRAINER.COOP, cfg.TRAINER.MAPLE = CfgNode({"N_CTX": 16}), CfgNode({"N_CTX": 2})
    clean_cfg(cfg, "CoOp")
    assert set(cfg.TRAINER) == {"NAME", "COOP"}


def test_file_values_are_decoded_and_keep_their_type(tmp_path):
    (tmp_path / "a.yaml").write_text(
        'INPUT:\n  SIZE: (64, 32)\n  TRANSFORMS: ["random_flip"]\n  PIXEL_MEAN: [0.1, 0.2, 0.3]\nOPTIM:\n  LR: 1e-3\n'
    )
    cfg = get_cfg_default()
    merge_file(cfg, str(tmp_path / "a.yaml"))
    assert cfg.INPUT.SIZE == (64, 32) and cfg.INPUT.TRANSFORMS == ("random_flip",)
    assert cfg.INPUT.PIXEL_MEAN == [0.1, 0.2, 0.3] and cfg.OPTIM.LR == 1e-3
    merge_pairs(cfg, {"OPTIM.STEPSIZE": "[2, 4]", "OPTIM.SGD_NESTEROV": "True", "DATASET.NAME": "X"})
    merge_pairs(cfg, {"OPTIM.LR": "1", "TRAIN.CHECKPOINT_MINUTES": 0})
    assert repr(cfg.OPTIM.LR) == "1.0" and repr(cfg.TRAIN.CHECKPOINT_MINUTES) == "0.0"
    assert cfg.OPTIM.STEPSIZE == (2, 4) and cfg.OPTIM.SGD_NESTEROV is True and cfg.DATASET.NAME == "X"


def test_dumped_configuration_can_be_merged_again(tmp_path):
    cfg = get_cfg_default()
    merge_pairs(cfg, {"INPUT.SIZE": (64, 32), "OPTIM.LR": 1e-6, "DATASET.ROOT": "1"[:0]})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg_default()
    merge_file(again, str(tmp_path / "config.yaml"))
    assert again == cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM:\n  LRR: 0.1", r"unknown config key OPTIM.LRR; the nearest are OPTIM.LR\b.*\(in .*bad.yaml\)"),
        ("optim:\n  lr: 0.1", "unknown config key optim.lr; the nearest are OPTIM.LR"),
        ("MAX_EPOCH: 3", "unknown config key MAX_EPOCH; the nearest are .*OPTIM.MAX_EPOCH"),
        ("OPTIM:\n  LR: fast", "OPTIM.LR takes a value of type float, got 'fast'"),
        ("OPTIM:\n  MAX_EPOCH: 1.5", "OPTIM.MAX_EPOCH takes a value of type int, got 1.5"),
        ("OPTIM: [1", "is not valid YAML"),
        ("- 1\n- 2", "must hold config keys and values, got list"),
        ("OPTIM:", "unknown config key OPTIM"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        merge_file(get_cfg_default(), str(tmp_path / "bad.yaml"))
    assert "\n" not in str(error.value)


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="no config file at nowhere.yaml"):
        merge_file(get_cfg_default(), "nowhere.yaml")


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_a_file_may_change_with_the_number_of_shots(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "OPTIM: {MAX_EPOCH: 200, LR: 0.5}\n"
        "_UP_TO_SHOTS_:\n  1: {OPTIM: {MAX_EPOCH: 50}}\n  4: {OPTIM: {MAX_EPOCH: 100, LR: 0.25}}\n"
    )
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nOPTIM: {LR: 0.125}\n")

    def epochs(file, shots, **values):
        cfg = compose([tmp_path / file], {"DATASET.NUM_SHOTS": shots, **values})
        return cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR

    assert [epochs("base.yaml", shots) for shots in (1, 2, "4", 5, 16, -1)] == [
        *((50, 0.5), (100, 0.25), (100, 0.25)),
        *((200, 0.5), (200, 0.5), (200, 0.5)),
    ]
    assert epochs("own.yaml", 4) == (100, 0.125)  # what a file says itself counts more than its base
    assert epochs("base.yaml", 4, **{"OPTIM.MAX_EPOCH": 7}) == (7, 0.25)
    (tmp_path / "wrong.yaml").write_text("_UP_TO_SHOTS_: 4\n")
    with pytest.raises(UserError, match="_UP_TO_SHOTS_ must map numbers of images to config keys"):
        compose([tmp_path / "wrong.yaml"])


def test_the_hash_of_settings_holds_what_can_change_a_result(make_cfg, tmp_path):
    weights = [tmp_path / name / "w.pt" for name in ("a", "b", "c")]
    for path, content in zip(weights, (b"1", b"1", b"2"), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    first = config_hash(make_cfg({"MODEL.BACKBONE.NAME": str(weights[0])}))
    equal = {
        "OUTPUT_DIR": "elsewhere",
        "DATASET.ROOT": "elsewhere",
        "INPUT.FEATURE_CACHE": "elsewhere",
        "RESUME": "elsewhere",
        "VERBOSE": False,
        "TRAIN.PRINT_FREQ": 1,
        "TRAIN.CHECKPOINT_FREQ": 1,
        "TEST.DECIMALS": 3,
        "MODEL.BACKBONE.NAME": str(weights[1]),
    }
    assert config_hash(make_cfg(equal)) == first
    other = {"SEED": 2, "OPTIM.LR": 0.5, "DATALOADER.NUM_WORKERS": 1, "INPUT.BACKGROUND": "black", "TEST.SPLIT": "val"}
    other["MODEL.BACKBONE.NAME"] = str(weights[2])
    hashes = {config_hash(make_cfg({**equal, key: value})) for key, value in other.items()}
    assert len({*hashes, first}) == len(other) + 1
