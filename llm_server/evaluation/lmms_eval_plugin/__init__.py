"""Lets `lmms-eval` (a package of its own, not a dependency of this one) drive a running gateway.

    LMMS_EVAL_PLUGINS=llm_server.evaluation.lmms_eval_plugin \\
        python -m lmms_eval --model polysight --model_args gateway=127.0.0.1:50060 --tasks mme --batch_size 1

lmms-eval imports `models` of each package named in LMMS_EVAL_PLUGINS, reads AVAILABLE_MODELS there, and loads the class
`models.NAME.CLASS` (lmms_eval/models/__init__.py upstream).
"""
