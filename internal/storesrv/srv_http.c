/* What is not gRPC: health, version and metrics. */
#include "internal/storesrv/srv_int.h"

#include "internal/sys/sys.h"

#include <fcntl.h>
#include <unistd.h>

static void text(struct http_req *r, unsigned status, const char *type, const char *s) {
    http_respond(r, status, type, NULL, 0, span_str(s));
}

static void gauge(struct buf *b, const char *name, const char *kind, uint64_t v) {
    buf_fmt(b, "# TYPE %s %s\n%s %llu\n", name, kind, name, (unsigned long long)v);
}

/* etcdctl check datascale reads the memory here. Left out where there is no /proc. */
static void process(struct buf *b) {
    AUTO(buf) struct buf statm = BUF_INIT(512);
    struct err e = ERR_INIT;
    uint64_t pages[2], page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (sys_file_read(AT_FDCWD, "/proc/self/statm", &statm, &e) < 0) {
        return;
    }
    struct span s = buf_view(&statm), one;
    for (int i = 0; i < 2; i++) {
        if (!span_next(&s, ' ', &one) || span_to_u64(one, 0, UINT32_MAX, &pages[i]) < 0) {
            return;
        }
    }
    gauge(b, "process_virtual_memory_bytes", "gauge", pages[0] * page);
    gauge(b, "process_resident_memory_bytes", "gauge", pages[1] * page);
}

void srv_metrics(struct storesrv *v, struct buf *b) {
    struct store_stat st;
    store_stat(v->st, &st);
    gauge(b, "etcd_server_has_leader", "gauge", 1);
    gauge(b, "etcd_server_is_leader", "gauge", 1);
    gauge(b, "etcd_server_leader_changes_seen_total", "counter", 1);
    gauge(b, "etcd_server_proposals_committed_total", "gauge", st.n_txns);
    gauge(b, "etcd_server_proposals_applied_total", "gauge", st.n_txns);
    gauge(b, "etcd_server_proposals_pending", "gauge", st.n_pending);
    gauge(b, "etcd_server_quota_backend_bytes", "gauge", st.quota_bytes);
    gauge(b, "etcd_mvcc_db_total_size_in_bytes", "gauge", st.db_bytes);
    gauge(b, "etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", st.in_use_bytes);
    gauge(b, "etcd_mvcc_put_total", "counter", st.n_puts);
    gauge(b, "etcd_mvcc_delete_total", "counter", st.n_deletes);
    gauge(b, "etcd_mvcc_range_total", "counter", st.n_ranges);
    gauge(b, "etcd_mvcc_txn_total", "counter", st.n_txns);
    gauge(b, "etcd_debugging_mvcc_current_revision", "gauge", (uint64_t)st.rev);
    gauge(b, "etcd_debugging_mvcc_compact_revision", "gauge", (uint64_t)st.compact_rev);
    gauge(b, "etcd_debugging_mvcc_watcher_total", "gauge", st.n_watches);
    gauge(b, "etcd_debugging_mvcc_slow_watcher_total", "gauge", st.n_slow_watches);
    gauge(b, "etcd_debugging_mvcc_watch_stream_total", "gauge", v->n_streams);
    gauge(b, "etcd_debugging_mvcc_events_total", "counter", st.n_events);
    gauge(b, "etcd_debugging_lease_granted_total", "gauge", st.n_leases);
    gauge(b, "kfarm_store_commits_total", "counter", st.n_commits);
    gauge(b, "kfarm_store_wal_bytes", "gauge", st.wal_bytes);
    gauge(b, "kfarm_store_rpc_failed_total", "counter", v->n_rpc_failed);
    gauge(b, "kfarm_store_rpc_ok_total", "counter", v->n_rpc_ok);
    gauge(b, "kfarm_store_watch_pauses_total", "counter", v->n_slow);
    buf_fmt(b,
            "# TYPE etcd_disk_backend_commit_duration_seconds summary\n"
            "etcd_disk_backend_commit_duration_seconds_sum %.6f\n"
            "etcd_disk_backend_commit_duration_seconds_count %llu\n",
            (double)st.commit_ns_total / 1e9, (unsigned long long)st.n_commits);
    process(b);
}

/* etcd: healthy means a leader and no alarm, where the query may name alarms to ignore. */
static void health(struct storesrv *v, struct http_req *r) {
    struct store_stat st;
    store_stat(v->st, &st);
    const char *ignore = http_query_get(r, "exclude");
    uint32_t bits = st.alarms;
    if (ignore && span_eq_nocase(span_str(ignore), "NOSPACE")) {
        bits &= ~(uint32_t)STORE_ALARM_NOSPACE;
    }
    if (bits) {
        const char *why = bits & STORE_ALARM_NOSPACE
                              ? "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}"
                              : "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}";
        text(r, 503, "application/json", why);
    } else {
        text(r, 200, "application/json", "{\"health\":\"true\",\"reason\":\"\"}");
    }
}

void srv_on_plain(const struct face *f, struct http_req *r) {
    struct storesrv *v = f->v;
    struct span p = http_req_path(r);
    bool get = span_eq_str(http_req_method(r), "GET");
    if (get && span_eq_str(p, "/health")) {
        health(v, r);
    } else if (get && (span_eq_str(p, "/livez") || span_eq_str(p, "/readyz"))) {
        text(r, 200, "text/plain; charset=utf-8", "ok\n");
    } else if (get && span_eq_str(p, "/version")) {
        text(r, 200, "application/json",
             "{\"etcdserver\":\"" ETCD_VERSION "\",\"etcdcluster\":\"3.5.0\"}");
    } else if (get && span_eq_str(p, "/metrics") && f->ns) {
        text(r, 403, "text/plain; charset=utf-8", "metrics are those of the whole store\n");
    } else if (get && span_eq_str(p, "/metrics")) {
        AUTO(buf) struct buf b = BUF_INIT(1 << 20);
        srv_metrics(v, &b);
        http_respond(r, 200, "text/plain; version=0.0.4", NULL, 0, buf_view(&b));
    } else {
        text(r, 404, "text/plain; charset=utf-8", "404 page not found\n");
    }
}
