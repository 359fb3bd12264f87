"""Sinkhorn's steps in ONNX, which onnxscript compiles from this Python syntax."""

# mypy: ignore-errors
# The operators are ONNX's, not Python's.

import onnxscript
from onnxscript import opset18 as op


@onnxscript.script(onnxscript.values.Opset("sotglp", 1))
def onnx_solve(log_plan: onnxscript.FLOAT, tol: float, max_iter: int) -> onnxscript.FLOAT:
    """Do ``transport.solve`` in ONNX: steps until the plans of all images are solved; a solved one stands still."""
    uniform = 1.0 / op.Cast(op.Shape(log_plan, start=1, end=2), to=1)
    log_rows = op.Log(op.Cast(op.Shape(log_plan, start=0, end=1), to=1))
    current = log_plan
    step = op.Constant(value_int=0)
    unsolved = op.Constant(value_int=0) < max_iter
    while unsolved:
        columns = op.ReduceLogSumExp(current, [0], keepdims=1)
        wrong = op.ReduceMax(op.Abs(op.Exp(columns) - uniform), [1], keepdims=1) > tol
        current = op.Where(wrong, op.LogSoftmax(current - columns, axis=1) - log_rows, current)
        step = step + 1
        any_wrong = op.Cast(op.ReduceMax(op.Cast(wrong, to=1), keepdims=0), to=9)
        unsolved = op.And(any_wrong, step < max_iter)
    return op.Identity(current)
