"""Every module in this folder is imported, so that its trainers register themselves."""

from dassl.utils import import_modules

import_modules(__name__, __path__)
