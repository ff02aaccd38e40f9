#!/usr/bin/env bash
# Pillow 13.0.0: a palette picture converted to RGB keeps its transparent colour, and later loses opaque pixels to it.
#
# Guess: after convert("RGB") a picture has no transparency, so convert("RGBA") makes every pixel opaque.
# Seen: info["transparency"] becomes the *colour* of the transparent palette entry, and every pixel of that colour is
# then transparent, those of another, opaque entry of the same colour too. Code that pastes onto white "if the picture
# has transparency" whitens parts of pictures that no viewer shows as white.
. "$(dirname "$0")/lib/environment.sh"
run_with 'pillow==13.0.0' <<'PY'
import io

from PIL import Image

picture = Image.new("P", (2, 1))
picture.putpalette([200, 0, 0, 200, 0, 0])  # two entries of one colour
picture.putpixel((0, 0), 0)
picture.putpixel((1, 0), 1)
file = io.BytesIO()
picture.save(file, "PNG", transparency=0)  # the first of them is transparent
opened = Image.open(io.BytesIO(file.getvalue()))
direct = [opened.convert("RGBA").getpixel((x, 0)) for x in (0, 1)]
rgb = opened.convert("RGB")
again = [rgb.convert("RGBA").getpixel((x, 0)) for x in (0, 1)]
print("RGBA at once:   ", direct)
print("RGB, then RGBA: ", again, rgb.info)
assert direct == [(200, 0, 0, 0), (200, 0, 0, 255)]
assert again == [(200, 0, 0, 0), (200, 0, 0, 0)]
assert rgb.info["transparency"] == (200, 0, 0)
PY
