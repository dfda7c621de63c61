"""3MF, the format of printers: a zip of XML (3MF core specification 1.3, materials extension 1.2)."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import trimesh
from jaxtyping import UInt8

_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>"""
_RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rel0" Target="/3D/3dmodel.model" \
Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>"""
_MODEL = """<?xml version="1.0" encoding="UTF-8"?>
<model unit="millimeter" xml:lang="en-US" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02" \
xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02">
<metadata name="Application">{generator}</metadata>
<resources>
<m:colorgroup id="1">{colors}</m:colorgroup>
<object id="2" type="model" pid="1" pindex="0"><mesh>
<vertices>{vertices}</vertices>
<triangles>{triangles}</triangles>
</mesh></object>
</resources>
<build><item objectid="2"/></build>
</model>"""
# The first that a zip can hold.
_DATE = (1980, 1, 1, 0, 0, 0)


def threemf(mesh: trimesh.Trimesh, colors: UInt8[np.ndarray, "v 4"], generator: str) -> bytes:
    """One object that stands on the bed, with colours at its vertices.

    Args:
        mesh: in millimetres, +Y up; the file is Z-up, as printers are, and the object's front faces -Y there.
        colors: sRGB.
        generator: named in the file.
    """
    x, y, z = np.asarray(mesh.vertices, dtype=np.float64).T
    points = np.stack([x, -z, y - y.min()], axis=-1)
    palette, index = np.unique(colors[:, :3], axis=0, return_inverse=True)
    index = index.ravel()
    faces = np.asarray(mesh.faces)
    rows = np.concatenate([faces, index[faces]], axis=1).tolist()
    model = _MODEL.format(
        generator=generator,
        colors="".join(f'<m:color color="#{r:02X}{g:02X}{b:02X}"/>' for r, g, b in palette.tolist()),
        vertices="".join(f'<vertex x="{a:.6g}" y="{b:.6g}" z="{c:.6g}"/>' for a, b, c in points.tolist()),
        triangles="".join(
            f'<triangle v1="{a}" v2="{b}" v3="{c}" pid="1" p1="{d}" p2="{e}" p3="{f}"/>'
            for a, b, c, d, e, f in rows
        ),
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        parts = {"[Content_Types].xml": _TYPES, "_rels/.rels": _RELATIONS, "3D/3dmodel.model": model}
        for name, content in parts.items():
            # Without a date of its own an entry gets the clock's, and two files of one mesh differ.
            archive.writestr(zipfile.ZipInfo(name, date_time=_DATE), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()
