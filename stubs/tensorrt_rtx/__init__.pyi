from tensorrt_rtx_bindings import *
from tensorrt_rtx_bindings import __version__ as __version__
