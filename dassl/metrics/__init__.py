from .accuracy import compute_accuracy
from .ood import auroc, fpr_at_95
