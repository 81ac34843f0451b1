"""PSGTR: a transformer whose queries are whole triplets, subject - predicate - object. `network`, `checkpoint` and
`onnx_export` need torch and run offline; everything else serves without it."""
