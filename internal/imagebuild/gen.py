#!/usr/bin/env python3
"""gen.py OUT: the files under image/ as C data, so that the binary builds images without a checkout."""
import os
import sys

top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
paths = []
for folder, _, names in os.walk(top):
    paths += [os.path.relpath(os.path.join(folder, n), top) for n in names]
with open(sys.argv[1], "w", encoding="utf-8") as out:
    out.write('#include "internal/imagebuild/imagebuild_int.h"\n\n')
    out.write("const struct image_data image_data[] = {\n")
    for path in sorted(paths):
        data = open(os.path.join(top, path), "rb").read()
        rows = [data[i:i + 64] for i in range(0, len(data), 64)]
        text = "\n     ".join('"' + "".join(
            "\\n" if c == 10 else chr(c) if 32 <= c < 127 and c not in b'"\\?' else f"\\{c:03o}" for c in row) + '"'
            for row in rows) or '""'
        out.write(f'    {{"{path}", {{(const uint8_t *)\n     {text}, {len(data)}}}}},\n')
    out.write("    {NULL, {NULL, 0}},\n};\n")
