"""xatlas on one mesh, in a process of its own: `python -P xatlas_child.py MESH.npz ATLAS.npz`.

xatlas is C++ that may take hours or crash; see `dreamfusion.assets.atlas`, which starts and, if need be, ends this.
"""

from __future__ import annotations

import sys

import numpy as np

GUTTER = 2
TRIES = 4


def main(given: str, answer: str) -> None:
    """Reads `vertices`, `faces`, `size` and writes `vertices`, `faces`, `uvs`; uvs have their origin at the top left."""
    import xatlas

    with np.load(given) as mesh:
        vertices, faces, size = mesh["vertices"], mesh["faces"], int(mesh["size"])
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, GUTTER, True
    for _ in range(TRIES):
        atlas.generate(xatlas.ChartOptions(), pack)
        if atlas.atlas_count == 1:
            break
        # xatlas opens a second page when its estimate was too high.
        pack.texels_per_unit = 0.9 * atlas.texels_per_unit
    else:
        raise SystemExit("the charts did not fit one page")
    mapping, indices, uvs = atlas[0]
    # Texels as xatlas counts them, on a page that may be smaller than the texture.
    page = np.array([atlas.width, atlas.height])
    np.savez(answer, vertices=mapping, faces=indices, uvs=uvs * page / max(size, *page))


if __name__ == "__main__":
    main(*sys.argv[1:])
