"""Pictures prepared on the device: decoded, resized and normalised without passing through the host.

An expert describes its input once (`Recipe`); `DevicePreparation` makes it there of what nvImageCodec decodes exactly,
and everything else goes the way of the host. Importing this package loads neither torch nor nvImageCodec.

Not run on hardware. The resizing is torch code that runs on any device and is held on the CPU to what each expert's own
preparation makes.
"""

from __future__ import annotations

from serving.preprocess.recipe import Recipe

__all__ = ["Recipe"]
