from .accuracy import compute_accuracy
from .ood import auroc, fpr_at_95, threshold_at_95
