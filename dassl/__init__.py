"""A training toolbox with Dassl's API: configuration, data, optimisation, training, evaluation."""

import os

# By default OpenMP's threads spin for milliseconds while they wait, which costs several times the time beside another
# busy process. Here they sleep soon. They still spin for some microseconds, as sleeping at once costs a tenth of the
# time on an idle machine (python -m benchmarks.busy). The runtime reads this when torch is first imported.
OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
if not OPENMP.keys() & os.environ.keys():
    os.environ.update(OPENMP)

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPUs lack is computed on the CPU

# Trainers of the CoOp family wrap their model in DataParallel if they see several GPUs. That is slower than one GPU
# and breaks many of them. So they see one GPU, unless the user chooses others; each process of torchrun sees its own.
# CUDA reads this when it is first used.
if "LOCAL_RANK" in os.environ and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
    local_rank = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", str(local_rank)).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank % len(visible)]
else:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # the first process shows the progress bars
