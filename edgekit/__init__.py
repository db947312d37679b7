"""The command line of edgekit. The packages it calls do the work: edge, quantize, emtnet, calibration, benchmarks."""
