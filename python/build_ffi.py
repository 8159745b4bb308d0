"""Writes the C source of the extension module sinklab._sinklab from sinklab.h.

Usage: build_ffi.py HEADER OUT.c. The declarations are the header's own, so that the compiler holds them to it.
"""
import pathlib
import re
import sys

import cffi

# What the package hands to sl_stop_when() and sl_warn_to().
CALLBACKS = """
extern "Python" bool sl_python_stop(void *ctx);
extern "Python" void sl_python_warn(void *ctx, const char *line);
void free(void *p);
"""


def declarations(header: str) -> str:
    """The header without its preprocessor lines and what they guard for C++."""
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.S)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.M)
    return re.sub(r"\bSL_API\b", "", text)


def main() -> int:
    header, out = sys.argv[1:]
    ffi = cffi.FFI()
    ffi.cdef(declarations(pathlib.Path(header).read_text(encoding="utf-8")) + CALLBACKS)
    ffi.set_source("sinklab._sinklab", "#include <stdlib.h>\n#include \"sinklab.h\"\n")
    ffi.emit_c_code(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
