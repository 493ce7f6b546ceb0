#!/usr/bin/env python3
"""gen.py OUT: message tables from data/*.tsv (columns: source, what, message, field, number, label, type)."""
import glob
import os
import sys

SCALARS = {"string": "PB_STRING", "bytes": "PB_BYTES", "bool": "PB_BOOL", "double": "PB_DOUBLE",
           "int32": "PB_INT", "int64": "PB_INT", "uint32": "PB_UINT", "uint64": "PB_UINT",
           "map<string,string>": "PB_MAP"}
here = os.path.dirname(os.path.abspath(__file__))
with open(sys.argv[1], "w", encoding="utf-8") as out:
    out.write('#include "internal/pb/pb.h"\n')
    for path in sorted(glob.glob(os.path.join(here, "data", "*.tsv"))):
        name = os.path.basename(path)[:-4]
        messages, enums = {}, set()
        for line in open(path, encoding="utf-8"):
            cols = line.rstrip("\n").split("\t")
            short = cols[2].split(".")[-1]
            if cols[1] == "enum":
                enums.add(short)
            else:
                fields = messages.setdefault(short, [])
                if cols[4]:  # messages without fields have one row without a number
                    fields.append(cols[3:])
        order = sorted(messages)
        out.write("\n")
        for m in order:
            rows = []
            for field, number, label, kind in sorted(messages[m], key=lambda r: int(r[1])):
                if kind in SCALARS:
                    k, of = SCALARS[kind], 0
                elif kind in enums:
                    k, of = "PB_INT", 0
                elif kind in messages:
                    k, of = "PB_MESSAGE", order.index(kind)
                else:
                    continue  # of another platform
                rows.append(f'    {{"{field}", {number}, {k}, {"true" if label == "repeated" else "false"}, {of}}},\n')
            out.write(f"static const struct pb_field {name}_{m}[] = {{\n{''.join(rows)}    {{NULL, 0, PB_INT, false, 0}},\n}};\n")
        out.write(f"\nconst struct pb_message pb_{name}[] = {{\n")
        for m in order:
            out.write(f'    {{"{m}", {name}_{m}}},\n')
        out.write("    {NULL, NULL},\n};\n")
