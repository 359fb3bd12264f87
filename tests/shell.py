"""A program for scripts.processes: a line of shell."""

import os


def main(argv):
    os.execvp("bash", ["bash", "-c", *argv])
