"""The ways to compute a file's quantities, which must all agree with it."""

import math
import os
import socket
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import multiprocessing

from dassl.utils import UserError, read_json, write_json
from dassl.utils.distributed import process_group
from scripts.conformance.adapters import CLIPLoRA, TipAdapter, TwoSFS
from scripts.conformance.classifiers import CLAP, GDA, LPPP
from scripts.conformance.deep import MaPLe, PromptSRC
from scripts.conformance.files import ReferenceFile
from scripts.conformance.local_prompts import SOTGLP, GalLoP
from scripts.conformance.methods import TCP, CoCoOp, CoOp, KgCoOp, LoCoOp, ProGrad
from scripts.conformance.negatives import NegLabel
from scripts.conformance.rows import HALF, Row
from scripts.conformance.transport import PLOT, PLOTPP
from sotglp import matching

METHODS = {
    **{"CoOp": CoOp, "CoCoOp": CoCoOp, "KgCoOp": KgCoOp, "ProGrad": ProGrad, "TCP": TCP, "LoCoOp": LoCoOp},
    **{"MaPLe": MaPLe, "PromptSRC": PromptSRC, "PLOT": PLOT, "PLOT++": PLOTPP, "GalLoP": GalLoP, "SOT-GLP": SOTGLP},
    **{
        "CLIP-LoRA": CLIPLoRA,
        "Tip-Adapter": TipAdapter,
        "GDA": GDA,
        "CLAP": CLAP,
        "LP++": LPPP,
        "2SFS": TwoSFS,
        "NegLabel": NegLabel,
    },
}
WAYS = {
    "prompts in parts": {"settings": {"TRAINER.MEMORY_BUDGET": 1e-12}},
    "classes in parts": {"part": 1},
    "kept features": {"kept": True},
    "mixed precision": {"half": True},
}


def check(file, way=None):
    """Return the Rows of a file and the names of what is not computed; none of a way that does not apply.

    A file whose settings our trainer refuses has one failed Row, which says why.

    Raises:
        UserError: the file is of no method that we have, or lacks something.
    """
    if file.method not in METHODS:
        raise UserError(f"{file.path} is of the method {file.method}: allowed are {', '.join(METHODS)}")
    options = WAYS.get(way, {})
    in_parts = patch.object(matching, "PART", options["part"]) if "part" in options else nullcontext()
    try:
        published = METHODS[file.method](file, options.get("kept", False))
        if way and (way not in published.ways or (options.get("half") and not torch.cuda.is_available())):
            return [], []
        settings = {"USE_CUDA": False, **options.get("settings", {})}
        if options.get("half"):
            settings |= {"USE_CUDA": True, f"TRAINER.{published.node()}.PREC": "amp"}
        with in_parts:
            values = published.compute(**settings)
        return published.compare(values, HALF if options.get("half") else 1)
    except KeyError as error:
        raise UserError(f"{file.path} is unusable: it lacks {error}") from error
    except (ArithmeticError, IndexError, RuntimeError, UserError, ValueError) as error:
        return [Row(f"our trainer cannot do it: {error}", math.inf, math.inf, 0.0)], []


def in_two_processes(paths):
    """Return {path: Rows} of files, computed by two processes that share out the work."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        multiprocessing.spawn(check_in_process, (paths, port, folder), nprocs=2)
        found = read_json(Path(folder, "rows.json"))
    return {path: [Row(*row) for row in rows] for path, rows in found.items()}


def check_in_process(rank, paths, port, folder):
    """Check files in one of two processes; the first one writes the Rows."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group():
        rows = {path: check(ReferenceFile(path))[0] for path in paths}
    if rank == 0:
        write_json(rows, Path(folder, "rows.json"))
