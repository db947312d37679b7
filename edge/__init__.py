"""The runtime beside the scanner: frame → prediction → finding. Needs numpy and OpenCV; engines are imported when opened."""
