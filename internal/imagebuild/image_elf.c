/* The little of ELF that image making needs: sections of modules, libraries that programs ask for. */
#include "internal/imagebuild/imagebuild_int.h"

enum {
    ELF_HEADER = 64,
    SECTION_HEADER = 64,
    SHT_DYNAMIC = 6,
    SHT_NOBITS = 8,
    DT_NULL = 0,
    DT_NEEDED = 1
};

struct section {
    uint32_t name, type, link;
    struct span data;
};

static int u16_at(struct span s, uint64_t at, uint16_t *ret) {
    return at > s.n || span_skip(&s, at) < 0 ? -ERR_INVALID : span_le16(&s, ret);
}
static int u64_at(struct span s, uint64_t at, uint64_t *ret) {
    return at > s.n || span_skip(&s, at) < 0 ? -ERR_INVALID : span_le64(&s, ret);
}

static bool is_elf64(struct span s) {
    return s.n >= ELF_HEADER && memcmp(s.p, "\177ELF\2\1", 6) == 0;
}

static int section_at(struct span elf, uint64_t i, struct section *ret) {
    uint64_t table, at, offset, size;
    uint16_t count;
    if (!is_elf64(elf) || u64_at(elf, 40, &table) < 0 || u16_at(elf, 60, &count) < 0 ||
        table > elf.n) {
        return -ERR_INVALID;
    }
    if (i >= count) {
        return -ERR_NOT_FOUND;
    }
    at = table + i * SECTION_HEADER;
    struct span s = elf;
    if (at > s.n || span_skip(&s, at) < 0 || span_le32(&s, &ret->name) < 0 ||
        span_le32(&s, &ret->type) < 0 || u64_at(elf, at + 24, &offset) < 0 ||
        u64_at(elf, at + 32, &size) < 0) {
        return -ERR_INVALID;
    }
    s = elf;
    if (span_skip(&s, at + 40) < 0 || span_le32(&s, &ret->link) < 0) {
        return -ERR_INVALID;
    }
    s = elf;
    ret->data = SPAN_EMPTY;
    if (ret->type == SHT_NOBITS) {
        return 0;
    }
    return offset > s.n || span_skip(&s, offset) < 0 || size > s.n ||
                   span_take(&s, size, &ret->data) < 0
               ? -ERR_INVALID
               : 0;
}

static const char *string_at(struct span table, uint64_t at) {
    if (at >= table.n || !memchr(table.p + at, 0, table.n - at)) {
        return NULL;
    }
    return (const char *)table.p + at;
}

int image_elf_section(struct span elf, const char *name, struct span *ret) {
    struct section names, s;
    uint16_t index;
    int rc;
    if (!is_elf64(elf) || u16_at(elf, 62, &index) < 0 || section_at(elf, index, &names) < 0) {
        return -ERR_INVALID;
    }
    for (uint64_t i = 1; (rc = section_at(elf, i, &s)) == 0; i++) {
        if (str_eq(string_at(names.data, s.name), name)) {
            *ret = s.data;
            return 0;
        }
    }
    return rc;
}

int image_elf_needed(struct span elf, int (*cb)(void *ctx, const char *name), void *ctx) {
    struct section dyn, strings;
    int rc;
    if (!is_elf64(elf)) {
        return 0;
    }
    for (uint64_t i = 1;; i++) {
        rc = section_at(elf, i, &dyn);
        if (rc < 0) {
            return rc == -ERR_NOT_FOUND ? 0 : rc;
        }
        if (dyn.type == SHT_DYNAMIC) {
            break;
        }
    }
    if (section_at(elf, dyn.link, &strings) < 0) {
        return -ERR_INVALID;
    }
    uint64_t tag, value;
    while (span_le64(&dyn.data, &tag) == 0 && span_le64(&dyn.data, &value) == 0 && tag != DT_NULL) {
        const char *name = tag == DT_NEEDED ? string_at(strings.data, value) : "";
        if (!name) {
            return -ERR_INVALID;
        }
        if (*name && (rc = cb(ctx, name)) < 0) {
            return rc;
        }
    }
    return 0;
}
