"""Every module in this folder is imported, so that its data sets register themselves."""

from dassl.utils import import_modules

# The commands run as python -m datasets.NAME: Python warns of modules that are imported before.
import_modules(__name__, __path__, leave_out=("check", "prepare"))
