"""A small training toolbox with Dassl's API: configuration, data, optimisation, training, evaluation."""

import os

# Trainers of this family wrap their model in DataParallel when they see several GPUs, which is slower than one and
# breaks many of them. One GPU is shown, unless the user says which. It must be said before CUDA is first asked.
# torchrun's processes each see one of them.
if "LOCAL_RANK" in os.environ and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
    local_rank = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", str(local_rank)).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank % len(visible)]
else:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # the first process shows the progress of all
