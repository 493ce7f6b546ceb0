#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/http/http.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <unistd.h>

int agent_url_parse(const char *url, struct agent_url *ret, struct err *e) {
    struct span s = span_str(url), scheme, host;
    struct agent_url u = {.target = "/"};
    uint64_t port;
    if (span_until(&s, ':', &scheme) < 0 || !span_starts(s, "//") || span_skip(&s, 2) < 0 ||
        (!span_eq_str(scheme, "http") && !span_eq_str(scheme, "https"))) {
        return err_set(e, ERR_INVALID, "%s is not an http or https URL", url);
    }
    u.is_tls = scheme.n == 5;
    ptrdiff_t slash = span_index(s, '/');
    struct span authority = slash < 0 ? s : span_of(s.p, (size_t)slash);
    if (slash >= 0) {
        u.target = (const char *)s.p + slash;
    }
    port = u.is_tls ? 443 : 80;
    if (span_index(authority, ':') >= 0) {
        struct span digits = authority;
        if (span_until(&digits, ':', &host) < 0 || span_to_u64(digits, 1, 65535, &port) < 0) {
            return err_set(e, ERR_INVALID, "%s: bad port", url);
        }
        authority = host;
    }
    if (authority.n == 0 || span_to_cstr(authority, u.host, sizeof(u.host)) < 0) {
        return err_set(e, ERR_INVALID, "%s: bad host", url);
    }
    u.port = (uint16_t)port;
    *ret = u;
    return 0;
}

static int pinned(const char *pin, struct tls_config **ret, struct err *e) {
    AUTO(buf) struct buf raw = BUF_INIT(64);
    if (!pin || strncmp(pin, "sha256:", 7) != 0 || hex_decode(&raw, span_str(pin + 7)) < 0 ||
        raw.n != 32) {
        return err_set(e, ERR_INVALID, "kfarm.ca= is missing or not sha256:<64 hex digits>");
    }
    return tls_client_config_new(ret, &(struct tls_client_opts){.pin_sha256 = buf_view(&raw)}, e);
}

int agent_post(const char *base_url, const char *pin, const char *path, const struct json *body,
               struct json_doc **ret, struct err *e) {
    struct agent_url u;
    struct tls_config *tls = NULL;
    AUTO(buf) struct buf text = BUF_INIT(LIM_AGENT_DOC), answer = BUF_INIT(LIM_AGENT_DOC);
    unsigned status = 0;
    if (agent_url_parse(base_url, &u, e) < 0 || pinned(pin, &tls, e) < 0) {
        return -(int)e->code;
    }
    json_write(body, 0, &text);
    const struct http_header h = {SPAN_LIT("content-type"), SPAN_LIT("application/json")};
    const struct http_client_opts co = {
        .host = u.host, .port = u.port, .tls = tls, .proto = HTTP_1_ONLY};
    const struct http_call_opts o = {.method = "POST",
                                     .target = path,
                                     .headers = &h,
                                     .n_headers = 1,
                                     .body = buf_view(&text),
                                     .timeout_ns = 20 * NS_PER_S};
    int rc = http_fetch(&co, &o, &status, &answer, e);
    tls_config_unref(tls);
    secret_wipe(text.p, text.n);
    if (rc < 0) {
        return err_wrap(e, "%s%s", base_url, path);
    }
    if (status != 200) {
        struct span why = span_trim(buf_view(&answer));
        why.n = why.n > 120 ? 120 : why.n;
        enum err_code code = status == 403 || status == 401 ? ERR_FORBIDDEN
                             : status == 404                ? ERR_NOT_FOUND
                                                            : ERR_UNAVAILABLE;
        return err_set(e, code, "%s%s: status %u: %.*s", base_url, path, status, SPAN_FMT(why));
    }
    return json_parse(buf_view(&answer), 0, ret, e);
}

/* ---- download ---- */

struct download {
    struct loop *l;
    struct hash *hash;
    int fd, rc;
    uint64_t size, done;
    unsigned shown;
    struct err *e;
};

static void on_data(struct http_call *c, struct span data, void *ctx) {
    struct download *d = ctx;
    if (d->rc < 0 || http_call_status(c) != 200) {
        return;
    }
    d->done += data.n;
    if (d->size && d->done > d->size) {
        d->rc = err_set(d->e, ERR_INVALID, "longer than the declared %llu bytes",
                        (unsigned long long)d->size);
    } else if ((d->rc = sys_write_all(d->fd, data, d->e)) == 0) {
        hash_add(d->hash, data);
        unsigned percent = d->size ? (unsigned)(d->done * 100 / d->size) : 0;
        if (percent >= d->shown + 25) {
            d->shown = percent - percent % 25;
            agent_say("root image: %u%%", d->shown);
        }
    }
}

static void on_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    struct download *d = ctx;
    if (d->rc == 0 && rc < 0) {
        *d->e = *e;
        d->rc = rc;
    } else if (d->rc == 0 && http_call_status(c) != 200) {
        d->rc = err_set(d->e, ERR_UNAVAILABLE, "status %u", http_call_status(c));
    }
    loop_stop(d->l);
}

static int run_download(struct download *d, const struct agent_url *u, struct err *e) {
    struct http_client *client = NULL;
    struct http_call *call;
    const struct http_client_opts co = {.host = u->host, .port = u->port, .proto = HTTP_1_ONLY};
    const struct http_call_opts o = {.method = "GET",
                                     .target = u->target,
                                     .timeout_ns = 600 * NS_PER_S,
                                     .on_data = on_data,
                                     .on_end = on_end,
                                     .ctx = d};
    int rc = http_client_new(d->l, &co, &client, e);
    rc = rc < 0 ? rc : http_call_start(client, &o, &call, e);
    rc = rc < 0 ? rc : loop_run(d->l, e);
    rc = rc < 0 ? rc : d->rc;
    http_client_free(client);
    return rc;
}

int agent_download(const char *url, const char *digest, uint64_t size, const char *path,
                   struct err *e) {
    struct agent_url u;
    struct download d = {.fd = -1, .size = size, .e = e};
    uint8_t sum[HASH_SHA256];
    AUTO(buf) struct buf hex = BUF_INIT(80);
    if (agent_url_parse(url, &u, e) < 0) {
        return -(int)e->code;
    }
    if (u.is_tls) {
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: root images come by http, their digest protects them", url);
    }
    AUTO_FD int fd = sys_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600, e);
    if (fd < 0 || loop_new(&d.l, e) < 0) {
        return -(int)e->code;
    }
    d.fd = fd;
    d.hash = hash_new();
    int rc = run_download(&d, &u, e);
    loop_free(d.l);
    hash_end(d.hash, sum);
    if (rc < 0) {
        return err_wrap(e, "%s", url);
    }
    hex_encode(&hex, span_of(sum, sizeof(sum)));
    if (!digest || strncmp(digest, "sha256:", 7) != 0 || !str_eq(digest + 7, buf_cstr(&hex))) {
        return err_set(e, ERR_CORRUPT, "%s: digest is sha256:%s, the boot document says %s", url,
                       buf_cstr(&hex), digest ? digest : "nothing");
    }
    return 0;
}
