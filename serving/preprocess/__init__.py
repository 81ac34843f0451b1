"""Pictures prepared on the device: decoded, resized and normalised without passing through the host.

`selection.decoder_for` decides once, in a process's composition, where pictures are decoded. An expert that is handed a
`PlacedPicture` says how its input is made of it (`Recipe`, `SquareRecipe`) and gets a row of the engine's batch, on the
device; what the device does not decode exactly comes from the host, as an array. Importing this package loads neither
torch nor nvImageCodec.

Not run on hardware. The resizing is torch code that runs on any device and is held on the CPU to what each expert's own
preparation makes.
"""

from __future__ import annotations

from serving.preprocess.picture import Picture, PlacedPicture, exact
from serving.preprocess.recipe import Recipe, SquareRecipe

__all__ = ["Picture", "PlacedPicture", "Recipe", "SquareRecipe", "exact"]
