from .accuracy import compute_accuracy
from .calibration import expected_calibration_error, learn_temperature, reliability
from .ood import auroc, fpr_at_95, threshold_at_95
