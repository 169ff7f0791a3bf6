"""Imports every module and public name of the installed parley: `make wheel` runs it where no extra is installed."""

import importlib
import pkgutil

import parley

names = [
    module.name for module in pkgutil.walk_packages(parley.__path__, "parley.") if module.name != "parley.__main__"
]
for name in names:
    importlib.import_module(name)
for name in parley.__all__:
    getattr(parley, name)
print(f"{len(names)} modules of parley {parley.__version__} imported from {parley.__path__[0]}")
