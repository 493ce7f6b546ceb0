#include "internal/pem/pem.h"

#include "internal/base/rand.h"

bool pem_is(struct span s) {
    return s.n && memmem(s.p, s.n, "-----BEGIN ", 11) != NULL;
}

/* "-----BEGIN CERTIFICATE-----" gives "CERTIFICATE". */
static bool armour(struct span line, const char *word, struct span *ret_label) {
    struct span s = span_trim(line), label;
    size_t lead = strlen(word);
    if (!span_starts(s, word) || !span_ends(s, "-----") || s.n < lead + 5) {
        return false;
    }
    IGNORE_ERR(span_skip(&s, lead), "length checked");
    IGNORE_ERR(span_take(&s, s.n - 5, &label), "length checked");
    *ret_label = label;
    return true;
}

int pem_next(struct span *s, struct span *ret_label, struct buf *der) {
    struct span rest = *s, line, label, end;
    do {
        if (span_line(&rest, &line) < 0) {
            *s = rest;
            return -ERR_NOT_FOUND;
        }
    } while (!armour(line, "-----BEGIN ", &label));
    struct buf text = BUF_INIT(der->max / 3 * 4 + 8);
    int rc = -ERR_INVALID;
    while (span_line(&rest, &line) == 0) {
        if (armour(line, "-----END ", &end)) {
            rc = end.n == label.n && memcmp(end.p, label.p, end.n) == 0 ? 0 : -ERR_INVALID;
            break;
        }
        buf_span(&text, span_trim(line));
    }
    rc = rc < 0 ? rc : buf_ok(&text);
    rc = rc < 0 ? rc : b64_decode(der, buf_view(&text));
    secret_wipe(text.p, text.n);
    buf_fini(&text);
    if (rc < 0) {
        return rc;
    }
    *s = rest;
    *ret_label = label;
    return 0;
}

int pem_write(struct buf *b, const char *label, struct span der) {
    struct buf text = BUF_INIT(der.n / 3 * 4 + 8);
    b64_encode(&text, der);
    buf_fmt(b, "-----BEGIN %s-----\n", label);
    struct span rest = buf_view(&text), line;
    while (span_take(&rest, rest.n < 64 ? rest.n : 64, &line) == 0 && line.n) {
        buf_span(b, line);
        buf_u8(b, '\n');
    }
    secret_wipe(text.p, text.n);
    buf_fini(&text);
    return buf_fmt(b, "-----END %s-----\n", label);
}
