"""A data set of coloured squares on disk and a tiny trainer, both registered as any plug-in is.

The tests, and the processes that they start, run on the CPU; those of a GPU take the fixture ``gpu``.
"""

import dassl  # noqa: F401 (before torch: it sets how OpenMP's threads wait)

# isort: split
import os
import os.path as osp
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from dassl.config import get_cfg_default, merge_pairs
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.evaluation.evaluator import Classification
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import listdir_nohidden, set_random_seed

GPU_IS_AVAILABLE = torch.cuda.is_available
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
HAS_GPU = GPU_IS_AVAILABLE()
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.cuda.is_available = lambda: False
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only get into each other's way
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200), "grey": (110, 110, 110)}
SIZES = {"train": 9, "val": 5, "test": 6}


def draw_squares(root):
    """Write <root>/squares/<split>/<colour>/<n>.png, noisy images of 20 x 24 pixels."""
    generator = np.random.default_rng(0)
    for split, count in SIZES.items():
        for name, colour in COLOURS.items():
            folder = root / "squares" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = generator.normal(0, 60, (20, 24, 3))
                pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


@DATASET_REGISTRY.register()
class Squares(DatasetBase):
    dataset_dir = "squares"

    def __init__(self, cfg):
        folder = osp.join(cfg.DATASET.ROOT, self.dataset_dir)
        train, val, test = (self.read(osp.join(folder, split)) for split in SIZES)
        train, val = self.few_shot(cfg, train, val)
        splits = self.subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=splits[0], val=splits[1], test=splits[2])

    @staticmethod
    def read(folder):
        return [
            Datum(osp.join(folder, classname, name), label=label, classname=classname)
            for label, classname in enumerate(COLOURS)
            for name in listdir_nohidden(osp.join(folder, classname), sort=True)
        ]


@TRAINER_REGISTRY.register()
class Tiny(TrainerX):
    """A linear classifier of pixels; its dropout makes the training depend on torch's random state."""

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.TINY = CfgNode({"DROPOUT": 0.3, "LOSS_FACTOR": 1.0})

    def build_model(self):
        height, width = self.cfg.INPUT.SIZE
        linear = nn.Linear(3 * height * width, self.num_classes)
        self.model = nn.Sequential(nn.Dropout(self.cfg.TRAINER.TINY.DROPOUT), nn.Flatten(), linear)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label) * self.cfg.TRAINER.TINY.LOSS_FACTOR
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


pytest.register_assert_rewrite("loops", "processes", "small_runs")  # helpers of tests, which assert too


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put files that take long first, so that no worker of xdist ends long after another.

    First come the tests on Slurm, which mostly wait, beside those of the pages, which use every core.
    """
    weights = Counter(item.path.name for item in items)
    weights.update(item.path.name for item in items if item.get_closest_marker("slow") for _ in range(10))
    weights |= {name: 10**6 for name in ("test_slurm.py", "test_docs.py")}
    items.sort(key=lambda item: -weights[item.path.name])


@pytest.fixture
def gpu(monkeypatch):
    """Shows the GPUs to a test and its processes; without one the test is skipped."""
    if not HAS_GPU:
        pytest.skip("there is no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", GPU_IS_AVAILABLE)
    if VISIBLE is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
    return torch.device("cuda")


@pytest.fixture(scope="session")
def python():
    """Path of a program that stands for python and starts in no time (warm_python.py), with one thread."""
    from warm_python import warm_python

    from scripts.processes import MALLOC

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with warm_python({**environment, **MALLOC, "OMP_NUM_THREADS": "1"}) as program:
        yield program


@pytest.fixture(scope="session", autouse=True)
def few_words():
    """NegLabel's candidates are every 50th word; the pages in docs/ take all."""
    from sotglp import negatives

    read = negatives.read_words
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives, "read_words", lambda kind: read(kind)[::50])
        yield


@pytest.fixture(scope="session")
def squares_root(tmp_path_factory):
    """A folder of data sets with the coloured squares."""
    root = tmp_path_factory.mktemp("data")
    draw_squares(root)
    return root


@pytest.fixture
def tiny_values(squares_root, tmp_path):
    """Configuration values of a run of Tiny on Squares that takes a second, as {key: value}."""
    return {
        "OUTPUT_DIR": str(tmp_path / "run"),
        "SEED": 1,
        "INPUT.SIZE": (8, 8),
        "INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "cutout", "normalize"],
        "INPUT.CUTOUT_LEN": 3,
        "DATASET.ROOT": str(squares_root),
        "DATASET.NAME": "Squares",
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 10,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.02,
        "OPTIM.MAX_EPOCH": 4,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "TRAINER.NAME": "Tiny",
    }


@pytest.fixture
def make_cfg(tiny_values):
    """Function (other values) -> frozen configuration of a tiny run, with its seed set."""

    def make(values=()):
        cfg = get_cfg_default()
        Tiny.extend_cfg(cfg)
        merge_pairs(cfg, {**tiny_values, **dict(values)})
        cfg.freeze()
        set_random_seed(cfg.SEED)
        return cfg

    return make


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The scripts' settings, with results in tmp_path; the signal handlers that a script installs are set back."""
    for name in ("BACKBONE", "VARIANT", "JOBS", "FEATURES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"DATA": "data", "OUTPUT": str(tmp_path), "SEEDS": "1 2"}.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory):
    """{trainer: (its run's folder, scores (n, C) of the test that ended the run, paths of the n test images)}.

    Short runs on the embedded Fashion-MNIST. The runs have been moved since, and their data set deleted; the images are
    copies. One more run, "calibrated", is SOTGLP's with OOD thresholds. The workers of xdist share them.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    moved = folder / "trained_runs"
    with FileLock(folder / "trained_runs.lock"):
        if not (moved / "scores.pt").exists():
            train_runs(moved, *(tmp_path_factory.mktemp(name) for name in ("data", "made")))
    paths, scores = sorted((moved / "images").iterdir()), torch.load(moved / "scores.pt")
    runs = {name: (moved / name, of_run[-len(paths) :], paths) for name, of_run in scores.items()}
    return {**runs, "calibrated": (moved / "calibrated", *runs["SOTGLP"][1:])}


def train_runs(moved, root, made):
    """Write the runs, images and scores of `trained_runs` into the folder `moved`; `root` and `made` are deleted."""
    import sotglp
    import train

    scores, process = {}, Classification.process
    for name, options in {
        "SOTGLP": ["DATALOADER.TEST.BATCH_SIZE", "100", "OPTIM.LR", "0.2"],
        "CoOp": ["TEST.FINAL_MODEL", "best_val"],
        "TipAdapterF": [],
        "ZeroshotCLIP": [],
    }.items():
        batches = []

        def keep(evaluator, scores, truth, batches=batches):
            batches.append(scores)
            process(evaluator, scores, truth)

        arguments = [
            *("--trainer", name, "--root", str(root), "--output-dir", str(made / name), "--seed", "1"),
            *("--dataset-config-file", "configs/datasets/fashion_mnist.yaml"),
            *("--config-file", "configs/backbones/small.yaml", "DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "1"),
            *("DATALOADER.NUM_WORKERS", "0", "INPUT.FEATURE_CACHE", str(made / "features")),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Classification, "process", keep)
            assert train.main([*arguments, *options]) == 0
        if not scores:
            shutil.copytree(root / "fashion_mnist" / "test", moved / "images")
            shutil.copytree(made / name, moved / "calibrated")
            sotglp.load(moved / "calibrated").calibrate()
        shutil.move(made / name, moved / name)
        scores[name] = torch.cat(batches)
    shutil.rmtree(root)
    shutil.rmtree(made)
    torch.save(scores, moved / "scores.pt")
