/* What is not gRPC: health, version, and where metrics are. */
#include "internal/storesrv/srv_int.h"

static void text(struct http_req *r, unsigned status, const char *type, const char *s) {
    http_respond(r, status, type, NULL, 0, span_str(s));
}

static void not_found(struct http_req *r) {
    text(r, 404, "text/plain; charset=utf-8", "404 page not found\n");
}

/* Does the query name it with ?exclude=…, once or several times? */
static bool excluded(struct http_req *r, const char *name) {
    struct span cursor = http_req_query(r);
    const char *k, *v;
    while (http_query_next(r, &cursor, &k, &v)) {
        if (str_eq(k, "exclude") && str_eq(v, name)) {
            return true;
        }
    }
    return false;
}

/* etcd: healthy means a leader and no alarm but those that the query excludes. */
static void health(struct storesrv *v, struct http_req *r) {
    struct store_stat st;
    store_stat(v->st, &st);
    bool space = !store_alarmed(st.alarms, STORE_ALARM_NOSPACE) || excluded(r, "NOSPACE");
    bool whole = !store_alarmed(st.alarms, STORE_ALARM_CORRUPT) || excluded(r, "CORRUPT");
    if (space && whole) {
        v->n_healthy++;
        text(r, 200, "text/plain; charset=utf-8", "{\"health\":\"true\",\"reason\":\"\"}");
    } else {
        v->n_unhealthy++;
        text(r, 503, "text/plain; charset=utf-8",
             space ? "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}"
                   : "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}");
    }
}

/* Kubernetes' probes, one check or all of them; reads always work here, of whatever kind. */
static void probe(struct storesrv *v, struct http_req *r, bool ready, struct span check) {
    static const struct {
        const char *name;
        bool live; /* of /livez too */
    } checks[] = {
        {"data_corruption", false}, {"serializable_read", true}, {"linearizable_read", false}};
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct store_stat st;
    bool found = false, failed = false;
    store_stat(v->st, &st);
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        if ((!ready && !checks[i].live) || (check.n && !span_eq_str(check, checks[i].name)) ||
            (!check.n && excluded(r, checks[i].name))) {
            continue;
        }
        found = true;
        if (i == 0 && store_alarmed(st.alarms, STORE_ALARM_CORRUPT)) {
            failed = true;
            buf_fmt(&b, "[-]%s failed: alarm activated: CORRUPT\n", checks[i].name);
        } else {
            buf_fmt(&b, "[+]%s ok\n", checks[i].name);
        }
    }
    if (check.n && !found) {
        not_found(r);
        return;
    }
    if (!failed && !http_query_get(r, "verbose")) {
        buf_reset(&b);
    }
    buf_str(&b, failed ? "\n" : "ok\n");
    http_respond(r, failed ? 503 : 200, "text/plain; charset=utf-8", NULL, 0, buf_view(&b));
}

/* "/livez", "/readyz", or one of their checks behind a slash. */
static bool is_probe(struct span path, const char *name, struct span *ret_check) {
    if (!span_starts(path, name) || span_skip(&path, strlen(name)) < 0 ||
        (path.n && path.p[0] != '/')) {
        return false;
    }
    *ret_check = path.n ? span_of(path.p + 1, path.n - 1) : SPAN_EMPTY;
    return true;
}

void srv_on_plain(const struct face *f, struct http_req *r) {
    struct storesrv *v = f->v;
    struct span p = http_req_path(r), check;
    if (!span_eq_str(http_req_method(r), "GET")) {
        not_found(r);
    } else if (span_eq_str(p, "/health")) {
        health(v, r);
    } else if (is_probe(p, "/livez", &check)) {
        probe(v, r, false, check);
    } else if (is_probe(p, "/readyz", &check)) {
        probe(v, r, true, check);
    } else if (span_eq_str(p, "/version")) {
        text(r, 200, "application/json",
             "{\"etcdserver\":\"" ETCD_VERSION "\",\"etcdcluster\":\"3.5.0\"}");
    } else if (span_eq_str(p, "/metrics") && f->ns) {
        text(r, 403, "text/plain; charset=utf-8", "metrics are those of the whole store\n");
    } else if (span_eq_str(p, "/metrics")) {
        AUTO(buf) struct buf b = BUF_INIT(1 << 20);
        srv_metrics(v, &b);
        http_respond(r, 200, "text/plain; version=0.0.4", NULL, 0, buf_view(&b));
    } else {
        not_found(r);
    }
}
