"""A small training toolbox with Dassl's API: configuration, data, optimisation, training, evaluation."""

import os

# Trainers of this family wrap their model in DataParallel when they see several GPUs, which is slower than one and
# breaks many of them. One GPU is shown, unless the user says which. It must be said before CUDA is first asked.
# torchrun's processes each see their own.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("LOCAL_RANK", "0"))
if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # the first process shows the progress of all
