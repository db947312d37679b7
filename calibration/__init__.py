"""The data that quantisation and drift stand on: data sets, the calibration subset, metrics, operating point, drift."""
