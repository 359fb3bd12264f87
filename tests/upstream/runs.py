"""Run a checkout's train.py with one command line after the other; a process for all of them saves the imports."""

import json
import runpy
import sys

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *arguments]
    runpy.run_path("train.py", run_name="__main__")
