"""Lets PyTorch's wheel be imported without the libraries of CUDA it is linked with, which have 4 GB and are
not called on a CPU. Builds libraries of the same names, every function of which aborts."""

import re
import subprocess
import sysconfig
from collections import defaultdict
from pathlib import Path

FOLDER = Path(sysconfig.get_path("purelib"), "torch", "lib")
# The runtime is called while PyTorch is loaded, the driver only if there is one.
OTHERS = ("libcudart.", "libcuda.")


def read(option, library):
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


libraries = list(FOLDER.glob("*.so*"))
needed = {
    name
    for library in libraries
    for name in re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl).*)\]", read("--dynamic", library))
    if not name.startswith(OTHERS)
}
#: By library and version.
functions = defaultdict(lambda: defaultdict(set))
for library in libraries:
    for name, version in re.findall(r" UND ([A-Za-z]\w*)(?:@(\S+))?", read("--dyn-syms", library)):
        for owner in needed:
            # Most versions are the name of their library.
            base = re.split(r"[._]", owner.removeprefix("lib"))[0]
            is_other = version.startswith("lib") or not name.lower().startswith(base.lower())
            if version == owner or not is_other:
                functions[owner][version or "UNVERSIONED"].add(name)
for name in needed:
    versions = functions[name]
    code, script = FOLDER / "unused.c", FOLDER / "unused.map"
    symbols = sorted(symbol for version in versions.values() for symbol in version)
    lines = [f"void {symbol}(void) {{ abort(); }}\n" for symbol in symbols]
    code.write_text("".join(["void abort(void);\n", *lines]))
    script.write_text("".join(f"{v} {{ global: {'; '.join(f)}; }};\n" for v, f in versions.items()))
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}"]
    options += [f"-Wl,--version-script={script}"] if versions else []
    subprocess.run(["cc", *options, "-o", str(FOLDER / name), str(code)], check=True)
    code.unlink()
    script.unlink()
