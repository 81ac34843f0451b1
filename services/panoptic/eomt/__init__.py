"""EoMT: a plain vision transformer whose last layers carry mask queries. `network` and `onnx_export` need torch and run
offline; everything else serves without it."""
