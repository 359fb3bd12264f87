"""The doctor reads repositories by the family's habits, and reports what the toolbox lacks for them."""

import re
import sys
from pathlib import Path

import pytest

import train
from dassl import doctor
from dassl.lacking import FLAGS

ROOT = Path(__file__).parents[1]
TRAINER = """
import os
import dassl.utils.tools as tools
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.engine import TrainerXU
from dassl.metrics import compute_accuracy, compute_accuracy_map
from dassl.modeling.ops import MixStyle
from dassl.optim import *
try:
    from dassl.utils import suppress_print
except ImportError:
    suppress_print = None

class Base(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.MINE.PREC in ("fp16", "fp32", "amp") and cfg.TRAINER["MINE"].NODE.DEPTH
        own = cfg.TRAINER.MINE
        cfg = cfg.OPTIM
        assert own.N_CTX and own.GONE and cfg.LR and cfg.NAME.lower() and self.of_the_derived

@TRAINER_REGISTRY.register()
class Mine(Base):
    of_the_derived = 1
    def forward_backward(self, batch):
        loss = self.loss_of(batch) * self.weight * self.num_batches * len(self.dm.dataset.classnames)
        self.update_lr(loss, unknown=1)
        self.model_backward_and_update(loss)
        self.entropy_backward(loss)
        if hasattr(self, "memory"):
            self.memory.clear()
        tools.mkdir_if_missing(self.cfg.OUTPUT_DIR)
        tools.make_folder(self.cfg.DATALOADER.TRAIN_U.SAMPLER)
        compute_accuracy(1, 2, topk=(1,), weights=3)

    def build_model(self, head=lambda cfg: cfg.BACKBONE.NAME):
        self.weight = self.cfg.TRAINER.FIXMATCH.WEIGHT_U + self.cfg.DATALOADER.TRAIN_U.BATCH_SIZE

    def loss_of(self, batch):
        super().parse_batch_train(batch, 2)
        return super().loss_upstream(batch)

class Module(nn.Module):
    def forward(self, x):
        return self.anything(x)
"""
TRAIN = """
import argparse
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from yacs.config import CfgNode as CN

def extend_cfg(cfg):
    cfg.TRAINER.MINE = CN()
    cfg.TRAINER.MINE.PREC = "fp16"
    cfg.TRAINER.MINE.N_CTX = 4
    cfg.TRAINER.MINE.NODE = CN({"DEPTH": 9})
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.LOSS = CN()
    cfg.LOSS.GM = False
    cfg.topk = 200
    cfg.MODEL.PROMPT.LENGTH = 1

def main(args):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.merge_from_list(["TRAINER.MINE.N_CTX", "'8'", "DATALOADER.WORKERS", 1])
    trainer = build_trainer(cfg)
    trainer.test(split="val")
    trainer.output_test()
    print(cfg.topk, cfg.LOSS.GM, cfg.TRAIN.keys())

parser = argparse.ArgumentParser()
parser.add_argument("--root", "-r")
parser.add_argument("--topk", type=int)
"""
CONFIG = """
DATALOADER:
  TRAIN_U:
    BATCH_SIZE: 4
INPUT:
  SIZE: (224, 224)
  TRANSFORMS: ["normalize", "randaugment2"]
TEST: {EVALUATOR: OwnResult, PRINT_HEADER: True}
TRAINER:
  MINE: {PREC: "amp"}
  OTHER:
    DEEP: {VALUE: 1}
"""
SCRIPT = r"""
#!/bin/bash
for SEED in 1 2 3
do  # --not-a-flag
  python train.py --root "${DATA}" --topk=5 \
    --speed 3 \
    --config-file configs/${CFG}.yaml TRAINER.MINE.N_CTX '"a photo"' TRAINER.${NAME}.X 1 \
    DATASET.NAME PACS TRAINER.MINE.WORDS 4 LOSS.GM False && tool --append A.B
done
SET=#1
  CUDA_VISIBLE_DEVICES=0 python3 train.py \
    --gpu cuda:0\
    FIRST_STAGE output/model.pth.tar-1 LOSS.TABLE ${SET}"&"${SEED} \
    LOSS.PATH ${DIR}\
    DATASET.NUM_SHOTS 4 \

TRAIN.NONE 1
python parse.py --own-flag TRAIN.NOTHING 1
ls --color
"""
LACKS = """
old/print.py:2: not read, because Python 3.{} cannot parse it: Missing parentheses in call to 'print'...
trainers/mine.py:5: dassl.engine.TrainerXU is for domain adaptation and semi-supervised learning only, ...
trainers/mine.py:6: dassl.metrics has no compute_accuracy_map
trainers/mine.py:7: there is no module dassl.modeling.ops
trainers/mine.py:32: dassl.utils.tools has no make_folder
trainers/mine.py:28: TrainerX has no entropy_backward
trainers/mine.py:40: TrainerX has no loss_upstream
train.py:24: TrainerX has no output_test
trainers/mine.py:33: compute_accuracy(output, target, topk=(1,)) got an unexpected keyword argument 'weights'
trainers/mine.py:26: TrainerX.update_lr(self, names=None) got an unexpected keyword argument 'unknown'
trainers/mine.py:39: TrainerX.parse_batch_train(self, batch) too many positional arguments
train.py:16: there is no config key MODEL.PROMPT
trainers/mine.py:19: there is no config key TRAINER.MINE.GONE
trainers/mine.py:32: there is no config key DATALOADER.TRAIN_U (and at 2 other places)
trainers/mine.py:36: there is no config key TRAINER.FIXMATCH
configs/mine.yaml:8: there is no config key TEST.PRINT_HEADER
configs/mine.yaml:12: there is no config key TRAINER.OTHER
scripts/mine.sh:8: there is no config key TRAINER.MINE.WORDS
scripts/mine.sh:18: there is no config key TRAIN.NOTHING
train.py:21: there is no config key DATALOADER.WORKERS
configs/mine.yaml:7: there is no transform randaugment2
configs/mine.yaml:8: there is no evaluator OwnResult
scripts/mine.sh:8: there is no data set PACS
train.py:29: train.py here has no flag --topk, the repository's own has (and at 1 other place)
scripts/mine.sh:6: train.py here has no flag --speed, nor has the repository's own
scripts/mine.sh:12: train.py here has no flag --gpu, nor has the repository's own
scripts/mine.sh:13: there is no config key LOSS.TABLE
scripts/mine.sh:14: there is no config key LOSS.PATH
"""


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def repository(tmp_path):
    """A repository for another toolbox, with copies of that toolbox, which are not read."""
    lacking = "from dassl.nothing import anything\n"
    copy = {f"{part}/__init__.py": lacking for part in ("config", "data", "engine", "optim", "utils")}
    write(tmp_path / "dassl", copy)
    write(tmp_path / "Toolbox.pytorch", {"setup.py": lacking, "tools/train.py": lacking})
    write(tmp_path / "Toolbox.pytorch/dassl", copy)
    write(tmp_path / "my_copy", {**copy, "engine/trainer.py": lacking})
    files = {"train.py": TRAIN, "trainers/mine.py": TRAINER, "configs/mine.yaml": CONFIG, "scripts/mine.sh": SCRIPT}
    others = {"old/print.py": "\nprint 1\n", ".git/hook.py": lacking, "environment.yml": "name: x\nTRAINERS: [y]\n"}
    write(tmp_path, files | others)
    return tmp_path


def fits(line, wanted):
    """Return whether a line is the wanted one, or begins with it if that ends in three dots."""
    return line == wanted or (wanted.endswith("...") and line.startswith(wanted.removesuffix("...")))


def lines_of(folder, capsys):
    assert doctor.main([str(folder)]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_doctor_reports_what_is_missing_a_line_each(repository, capsys):
    *lines, last = lines_of(repository, capsys)
    wanted = LACKS.format(sys.version_info[1]).strip().splitlines()
    assert [line for line in lines if not any(fits(line, one) for one in wanted)] == []
    assert [one for one in wanted if not any(fits(line, one) for line in lines)] == []
    assert last == f"{len(wanted) - 1} missing; read 3 Python files, 2 YAML files, 1 shell scripts"


def test_nothing_is_run(repository, capsys):
    write(repository, {"trainers/__init__.py": "open('run', 'w')", "sitecustomize.py": "raise SystemExit(1)"})
    lines_of(repository, capsys)
    assert not (repository / "run").exists() and not Path("run").exists()


@pytest.mark.parametrize("folder", ["repository", "habits"])
def test_what_runs_here_lacks_nothing(folder, capsys):
    (line,) = lines_of(ROOT / "tests/thirdparty" / folder, capsys)
    assert line.startswith("nothing is missing; read ")


def test_a_yaml_file_may_add_keys_where_the_repository_allows_it(repository, capsys):
    text = TRAIN.replace("cfg.topk = 200", "cfg.topk = 200; cfg.TRAINER.set_new_allowed(True)")
    write(repository, {"train.py": text})
    lines = lines_of(repository, capsys)
    assert not any("TRAINER.OTHER" in line for line in lines) and any("TEST.PRINT_HEADER" in line for line in lines)


def test_damaged_files_are_a_line_each(tmp_path, capsys):
    write(
        tmp_path, {"a.py": "x = (", "b.yaml": "A: [1", "c.py": "from dassl.utils import read_json", "d.yaml": "- 1\n"}
    )
    (tmp_path / "e.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "f.sh").write_bytes(b"\xff echo")
    (tmp_path / "g.py").symlink_to("nowhere")
    lines = lines_of(tmp_path, capsys)
    assert [line.split(":")[0] for line in lines[:-1]] == ["a.py", "b.yaml", "e.py", "f.sh", "g.py"]
    assert lines[-1].startswith("nothing is missing; read ")


def test_a_folder_without_users_of_dassl_is_reported(tmp_path, capsys):
    assert lines_of(tmp_path, capsys)[0] == "no file imports dassl"


def test_a_folder_that_does_not_exist_is_one_line(tmp_path, capsys):
    assert doctor.main([str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"error: no folder at {tmp_path / 'gone'}\n"


def test_the_doctor_knows_the_flags_of_train_py(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    flags = set(re.findall(r"^  (?:-h, )?(--[\w-]+)", capsys.readouterr().out, re.M))
    assert flags == {*FLAGS, "--reproduce", "--allow-new-keys", "--list"}  # no other repository has these
