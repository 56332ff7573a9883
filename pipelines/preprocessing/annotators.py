"""controlnet-aux's modules one by one.

Its package imports all of its detectors, and with them mediapipe, mmpose's remains and their warnings: ten seconds for what one
does. Here its folder is a package of another name, without that ``__init__``; the modules in it import each other relatively.
"""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

from pipelines.contract.errors import ModelLoadFailed

_PACKAGE = "pipelines_controlnet_aux"


def annotator(name: str) -> Any:
    """Module ``name`` of controlnet-aux, such as ``hed`` or ``teed.ted``; raises `ModelLoadFailed` if it is not installed."""
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec("controlnet_aux")
        if found is None or found.submodule_search_locations is None:
            msg = "The package controlnet-aux is not installed here: pip install controlnet-aux."
            raise ModelLoadFailed(msg)
        package = ModuleType(_PACKAGE)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[_PACKAGE] = package
        # Old names of timm's and torch's that its modules are written in: nothing that whoever reads the log could mend.
        warnings.filterwarnings("ignore", module=rf"{_PACKAGE}|timm")
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    return importlib.import_module(f"{_PACKAGE}.{name}")
