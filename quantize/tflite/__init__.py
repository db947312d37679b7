"""Direct lowering of FP32 and QDQ ONNX graphs to TFLite.

`plan` reads the quantisers and fuses activations, `lower` walks the graph, `ops` is the table from operator to lowering,
`graph` holds the TFLite records and `writer` serialises them.
"""
