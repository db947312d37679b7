"""tflite-runtime 2.14: the TensorFlow Lite interpreter under its old name, for devices that have it already.

It opens LiteRT's artifacts. Its wheels are for Python 3.11 at most and for numpy 1: with numpy 2 the import ends well, the first
interpreter does not.
"""

import ctypes
import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge.engines import engine_errors
from edge.engines.litert import LiteRtEngine
from edge.errors import EngineError, MissingDependencyError, require

NAME: Final = "tflite-runtime"
_RELEASE: Final = "2.14"
"""The last one. `_Int8Delegate` calls functions by their C interface, which another release may have changed."""
_INT8_FLAGS: Final = 0x1 | 0x2
"""TFLITE_XNNPACK_DELEGATE_FLAG_QS8 and _QU8."""
_LOG_WARNING: Final = 2
_SET_LEAST_SEVERITY: Final = "_ZN6tflite16logging_internal13MinimalLogger21SetMinimumLogSeverityENS_11LogSeverityE"


def obstacle() -> str | None:
    """Why an installed tflite-runtime cannot work here and what to do, in one line; None where nothing is known.

    Found in the metadata of the installed packages, without an import of it.
    """
    own = (
        f"install it into an environment of its own (pip install 'edgekit-ultrasound[{NAME}]'), or use --engine litert"
    )
    try:
        found = version(NAME)
    except PackageNotFoundError:
        found = "of an unknown version"
    if not found.startswith(f"{_RELEASE}."):
        return f"{NAME} {found} is installed, edgekit runs {_RELEASE} only; {own}"
    if int(np.__version__.partition(".")[0]) >= 2:
        return f"{NAME} {found} is built for numpy 1, and numpy {np.__version__} is installed; {own}"
    return None


def open_model(path: Path, *, precision: str, threads: int | None, device: str) -> LiteRtEngine:
    """Load a .tflite file. precision: "int8" lets XNNPACK have the INT8 layers. threads: None takes all cores but one.

    Raises EngineError, also where a wheel that is there cannot work, MissingDependencyError.
    """
    del device
    try:
        require("tflite_runtime", extra=NAME)
    except MissingDependencyError as error:
        if sys.version_info < (3, 12):
            raise
        raise MissingDependencyError(
            f"{NAME} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}; install it with Python 3.11, "
            "or use --engine litert"
        ) from error
    if (story := obstacle()) is not None:
        raise EngineError(story)
    runtime: Any = importlib.import_module("tflite_runtime.interpreter")
    library = ctypes.CDLL(importlib.import_module("tflite_runtime._pywrap_tensorflow_interpreter_wrapper").__file__)
    _quieten(library)
    # Its threads spin while they wait for one another: one that has to share its core holds up all, for many frames' time.
    workers = threads or max(1, (os.cpu_count() or 1) - 1)
    # Its own choice leaves INT8 layers to kernels that are many times slower than XNNPACK's (docs/tflite-runtime.md).
    options: dict[str, Any] = {}
    if precision == "int8":
        options["experimental_delegates"] = [_Int8Delegate(library, workers)]
        options["experimental_op_resolver_type"] = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with engine_errors(NAME):
        return LiteRtEngine(runtime.Interpreter(model_path=str(path), num_threads=workers, **options), name=NAME)


class _Options(ctypes.Structure):
    """TfLiteXNNPackDelegateOptions of TensorFlow Lite 2.14 (tensorflow/lite/delegates/xnnpack/xnnpack_delegate.h)."""

    _fields_ = (
        ("num_threads", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("weights_cache", ctypes.c_void_p),
        ("handle_variable_ops", ctypes.c_bool),
        ("experimental_adaptive_avx_optimization", ctypes.c_bool),
    )


class _Int8Delegate:
    """XNNPACK with its INT8 kernels, as one of the interpreter's `experimental_delegates`.

    The wheel has these kernels and leaves them off; no parameter of its Python interface switches them on, its C interface does.
    """

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        library.TfLiteXNNPackDelegateOptionsDefault.restype = _Options
        library.TfLiteXNNPackDelegateCreate.restype = ctypes.c_void_p
        library.TfLiteXNNPackDelegateDelete.argtypes = [ctypes.c_void_p]
        options = library.TfLiteXNNPackDelegateOptionsDefault()
        options.num_threads = threads
        options.flags |= _INT8_FLAGS
        self._delete = library.TfLiteXNNPackDelegateDelete
        self._pointer = library.TfLiteXNNPackDelegateCreate(ctypes.byref(options))

    def _get_native_delegate_pointer(self) -> int | None:
        """What the interpreter asks a delegate for; it is used until the interpreter is gone, and so is this object."""
        pointer: int | None = self._pointer
        return pointer

    def __del__(self) -> None:
        self._delete(self._pointer)


def _quieten(library: ctypes.CDLL) -> None:
    """Leave out "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.": it goes to stderr, where only errors go."""
    getattr(library, _SET_LEAST_SEVERITY)(_LOG_WARNING)
