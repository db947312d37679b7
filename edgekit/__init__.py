"""The command line of edgekit. The packages it calls do the work: edge, quantize, emtnet, calibration, benchmarks."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (run from a folder, where no installer asked for the version)
    sys.exit(
        "error: edgekit needs Python 3.11 to 3.13, this is {}.{}; install one of them "
        "(Raspberry Pi OS has 3.11 since its version of October 2023)".format(*sys.version_info[:2])
    )
